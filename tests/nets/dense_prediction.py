"""Inception, and networks with a map at the end: U-Net, a YOLO-like detector, DeepLab, super-resolution."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from nets.layers import PoolHead, conv_bn
from torch import Tensor, nn


class InceptionBlock(nn.Module):
    def __init__(self, cin: int) -> None:
        super().__init__()
        self.one = conv_bn(cin, 8, 1)
        self.three = nn.Sequential(conv_bn(cin, 4, 1), conv_bn(4, 8))
        self.five = nn.Sequential(conv_bn(cin, 4, 1), conv_bn(4, 6), conv_bn(6, 6))
        self.pooled = conv_bn(cin, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        pooled = self.pooled(F.avg_pool2d(x, 3, 1, 1))
        return torch.cat([self.one(x), self.three(x), self.five(x), pooled], 1)


def inception() -> nn.Module:
    return nn.Sequential(
        conv_bn(3, 8, 3, 2),
        InceptionBlock(8),
        nn.MaxPool2d(3, 2, ceil_mode=True),
        InceptionBlock(26),
        PoolHead(26),
    )


class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down1 = nn.Sequential(conv_bn(3, 8), conv_bn(8, 8))
        self.down2 = nn.Sequential(nn.MaxPool2d(2), conv_bn(8, 16), conv_bn(16, 16))
        self.bottom = nn.Sequential(nn.MaxPool2d(2), conv_bn(16, 32))
        self.up2, self.join2 = nn.ConvTranspose2d(32, 16, 2, 2), conv_bn(32, 16)
        self.up1, self.join1 = nn.ConvTranspose2d(16, 8, 2, 2), conv_bn(16, 8)
        self.head = nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        first = self.down1(x)
        second = self.down2(first)
        x = self.up2(self.bottom(second))
        x = self.up1(self.join2(torch.cat([second, x], 1)))
        return self.head(self.join1(torch.cat([first, x], 1)))


class CrossStage(nn.Module):
    """The C2f block: split, a chain of bottlenecks, and all parts joined."""

    def __init__(self, cin: int, cout: int) -> None:
        super().__init__()
        half = cout // 2
        self.first = conv_bn(cin, cout, 1, act=nn.SiLU)
        self.inner = nn.Sequential(
            conv_bn(half, half, act=nn.SiLU), conv_bn(half, half, act=nn.SiLU)
        )
        self.last = conv_bn(3 * half, cout, 1, act=nn.SiLU)

    def forward(self, x: Tensor) -> Tensor:
        left, right = self.first(x).chunk(2, 1)
        return self.last(torch.cat([left, right, right + self.inner(right)], 1))


class Yolo(nn.Module):
    """Two scales, spatial pyramid pooling, nearest upsampling; boxes and scores leave as two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.fine = nn.Sequential(
            conv_bn(3, 8, 3, 2, act=nn.SiLU), conv_bn(8, 16, 3, 2, act=nn.SiLU), CrossStage(16, 16)
        )
        self.coarse = nn.Sequential(conv_bn(16, 24, 3, 2, act=nn.SiLU), CrossStage(24, 24))
        self.squeeze = conv_bn(24, 12, 1, act=nn.SiLU)
        self.pyramid = conv_bn(36, 24, 1, act=nn.SiLU)
        self.join = CrossStage(40, 16)
        self.boxes = nn.ModuleList(nn.Conv2d(c, 4, 1) for c in (16, 24))
        self.scores = nn.ModuleList(nn.Conv2d(c, 3, 1) for c in (16, 24))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        fine = self.fine(x)
        coarse = self.squeeze(self.coarse(fine))
        once = F.max_pool2d(coarse, 5, 1, 2)
        coarse = self.pyramid(torch.cat([coarse, once, F.max_pool2d(once, 5, 1, 2)], 1))
        fine = self.join(torch.cat([F.interpolate(coarse, scale_factor=2.0), fine], 1))
        maps = (fine, coarse)
        boxes = [head(y).flatten(2) for head, y in zip(self.boxes, maps, strict=True)]
        scores = [head(y).flatten(2) for head, y in zip(self.scores, maps, strict=True)]
        return torch.cat(boxes, 2), torch.cat(scores, 2).sigmoid()


class DeepLab(nn.Module):
    """Dilated branches and a pooled one, resized and joined; the logits get the size of the picture."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(
            conv_bn(3, 8, 3, 2), conv_bn(8, 16, 3, 2), conv_bn(16, 16, dilation=2)
        )
        self.branches = nn.ModuleList(
            [conv_bn(16, 8, 1), conv_bn(16, 8, dilation=2), conv_bn(16, 8, dilation=4)]
        )
        self.pooled = nn.Sequential(nn.AdaptiveAvgPool2d(1), conv_bn(16, 8, 1))
        self.head = nn.Sequential(conv_bn(32, 16, 1), nn.Dropout(0.1), nn.Conv2d(16, 5, 1))

    def forward(self, x: Tensor) -> Tensor:
        y = self.backbone(x)
        pooled = F.interpolate(self.pooled(y), y.shape[-2:], mode="bilinear", align_corners=False)
        y = self.head(torch.cat([*(branch(y) for branch in self.branches), pooled], 1))
        return F.interpolate(y, x.shape[-2:], mode="bilinear", align_corners=False)


class SuperResolution(nn.Module):
    """No normalisation at all; the picture itself is added after the shuffle."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 16, 5, padding=2)
        self.body = nn.Sequential(
            nn.PReLU(16),
            nn.Conv2d(16, 16, 3, padding=1),
            nn.LeakyReLU(0.1),
            nn.Conv2d(16, 16, 3, padding=1),
        )
        self.last = nn.Sequential(nn.Conv2d(16, 12, 3, padding=1), nn.PixelShuffle(2))

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        return self.last(y + self.body(y)) + F.interpolate(x, scale_factor=2.0, mode="bicubic")
