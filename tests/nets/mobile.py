"""MobileNetV3, EfficientNet and ShuffleNetV2."""

from __future__ import annotations

import torch
from nets.layers import Activation, PoolHead, SqueezeExcite, conv_bn
from torch import Tensor, nn


class InvertedResidual(nn.Module):
    def __init__(
        self, cin: int, cout: int, stride: int, *, act: Activation, gate: Activation | None
    ) -> None:
        super().__init__()
        wide = 3 * cin
        self.has_skip = stride == 1 and cin == cout
        squeeze = (
            SqueezeExcite(wide, 8, nn.ReLU if act is nn.Hardswish else act, gate) if gate else None
        )
        self.body = nn.Sequential(
            conv_bn(cin, wide, 1, act=act),
            conv_bn(wide, wide, 3, stride, groups=wide, act=act),
            *([squeeze] if squeeze else []),
            conv_bn(wide, cout, 1, act=None),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x) if self.has_skip else self.body(x)


def mobilenet_v3() -> nn.Module:
    return nn.Sequential(
        conv_bn(3, 8, 3, 2, act=nn.Hardswish),
        InvertedResidual(8, 8, 1, act=nn.ReLU, gate=None),
        InvertedResidual(8, 16, 2, act=nn.Hardswish, gate=nn.Hardsigmoid),
        InvertedResidual(16, 16, 1, act=nn.Hardswish, gate=nn.Hardsigmoid),
        conv_bn(16, 32, 1, act=nn.Hardswish),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(1),
        nn.Linear(32, 32),
        nn.Hardswish(),
        nn.Linear(32, 10),
    )


def efficientnet() -> nn.Module:
    return nn.Sequential(
        conv_bn(3, 8, 3, 2, act=nn.SiLU),
        InvertedResidual(8, 8, 1, act=nn.SiLU, gate=nn.Sigmoid),
        InvertedResidual(8, 16, 2, act=nn.SiLU, gate=nn.Sigmoid),
        InvertedResidual(16, 16, 1, act=nn.SiLU, gate=nn.Sigmoid),
        conv_bn(16, 32, 1, act=nn.SiLU),
        PoolHead(32),
    )


def shuffle(x: Tensor, groups: int) -> Tensor:
    """Exchange channels between groups, as torchvision writes it."""
    batch, channels, height, width = x.size()
    x = x.view(batch, groups, channels // groups, height, width)
    return torch.transpose(x, 1, 2).contiguous().view(batch, channels, height, width)


class ShuffleUnit(nn.Module):
    def __init__(self, cin: int, cout: int, stride: int) -> None:
        super().__init__()
        half = cout // 2
        inner = cin if stride > 1 else half
        self.stride = stride
        self.left = nn.Sequential(
            conv_bn(cin, cin, 3, stride, groups=cin, act=None), conv_bn(cin, half, 1)
        )
        self.right = nn.Sequential(
            conv_bn(inner, half, 1),
            conv_bn(half, half, 3, stride, groups=half, act=None),
            conv_bn(half, half, 1),
        )
        if stride == 1:
            self.left = nn.Sequential()

    def forward(self, x: Tensor) -> Tensor:
        if self.stride == 1:
            kept, changed = x.chunk(2, dim=1)
            return shuffle(torch.cat((kept, self.right(changed)), 1), 2)
        return shuffle(torch.cat((self.left(x), self.right(x)), 1), 2)


def shufflenet_v2() -> nn.Module:
    return nn.Sequential(
        conv_bn(3, 8),
        nn.MaxPool2d(3, 2, 1),
        ShuffleUnit(8, 16, 2),
        ShuffleUnit(16, 16, 1),
        ShuffleUnit(16, 16, 1),
        conv_bn(16, 32, 1),
        PoolHead(32),
    )
