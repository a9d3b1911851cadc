"""ResNeXt, DenseNet, RegNetY and ConvNeXt."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from nets.layers import PoolHead, SqueezeExcite, conv_bn
from torch import Tensor, nn


class GroupedBottleneck(nn.Module):
    """The block of ResNeXt, and with a squeeze that of RegNetY."""

    def __init__(self, cin: int, cout: int, stride: int, *, groups: int, squeezes: bool) -> None:
        super().__init__()
        gate = SqueezeExcite(cout, cin // 4, nn.ReLU, nn.Sigmoid) if squeezes else nn.Identity()
        self.body = nn.Sequential(
            conv_bn(cin, cout, 1),
            conv_bn(cout, cout, 3, stride, groups=groups),
            gate,
            conv_bn(cout, cout, 1, act=None),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or cin != cout:
            self.shortcut = conv_bn(cin, cout, 1, stride, act=None)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.shortcut(x) + self.body(x))


def resnext() -> nn.Module:
    blocks = [
        GroupedBottleneck(cin, cout, stride, groups=4, squeezes=False)
        for cin, cout, stride in ((16, 16, 1), (16, 32, 2), (32, 32, 1))
    ]
    return nn.Sequential(conv_bn(3, 16), *blocks, PoolHead(32))


def regnet() -> nn.Module:
    blocks = [
        GroupedBottleneck(cin, cout, stride, groups=cout // 8, squeezes=True)
        for cin, cout, stride in ((16, 24, 2), (24, 24, 1), (24, 48, 2))
    ]
    return nn.Sequential(conv_bn(3, 16), *blocks, PoolHead(48))


class DenseLayer(nn.Module):
    """BatchNorm and ReLU stand before the convolutions, so some cannot be folded."""

    def __init__(self, cin: int, growth: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.BatchNorm2d(cin), nn.Conv2d(cin, 2 * growth, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(2 * growth)
        self.conv2 = nn.Conv2d(2 * growth, growth, 3, padding=1, bias=False)

    def forward(self, features: list[Tensor]) -> Tensor:
        x = self.conv1(F.relu(self.norm1(torch.cat(features, 1))))
        return self.conv2(F.relu(self.norm2(x)))


class DenseNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn(3, 8)
        self.first = nn.ModuleList(DenseLayer(8 + 4 * i, 4) for i in range(3))
        self.transition = nn.Sequential(
            nn.BatchNorm2d(20), nn.ReLU(), nn.Conv2d(20, 10, 1, bias=False), nn.AvgPool2d(2, 2)
        )
        self.second = nn.ModuleList(DenseLayer(10 + 4 * i, 4) for i in range(2))
        self.norm, self.head = nn.BatchNorm2d(18), PoolHead(18)

    def forward(self, x: Tensor) -> Tensor:
        x = self.transition(self._dense(self.first, self.stem(x)))
        return self.head(F.relu(self.norm(self._dense(self.second, x))))

    @staticmethod
    def _dense(layers: nn.ModuleList, x: Tensor) -> Tensor:
        features = [x]
        for layer in layers:
            features.append(layer(features))
        return torch.cat(features, 1)


class LayerNorm2d(nn.LayerNorm):
    """LayerNorm over the channels of a picture."""

    def forward(self, x: Tensor) -> Tensor:
        x = x.permute(0, 2, 3, 1)
        x = F.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)
        return x.permute(0, 3, 1, 2)


class ConvNeXtBlock(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)
        self.norm = nn.LayerNorm(channels, eps=1e-6)
        self.wide, self.act = nn.Linear(channels, 4 * channels), nn.GELU()
        self.narrow = nn.Linear(4 * channels, channels)
        self.gamma = nn.Parameter(0.5 + torch.rand(channels))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        y = self.gamma * self.narrow(self.act(self.wide(y)))
        return x + y.permute(0, 3, 1, 2)


class ConvNeXt(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 4, 4), LayerNorm2d(16))
        self.first = nn.Sequential(ConvNeXtBlock(16), ConvNeXtBlock(16))
        self.down = nn.Sequential(LayerNorm2d(16), nn.Conv2d(16, 32, 2, 2))
        self.second = ConvNeXtBlock(32)
        self.norm, self.head = nn.LayerNorm(32), nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.second(self.down(self.first(self.stem(x))))
        return self.head(self.norm(x.mean([-2, -1])))
