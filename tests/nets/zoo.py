"""Small networks with random weights and plausible BatchNorm statistics, and both of PyTorch's exporters.

The topologies are those of the CIFAR and ImageNet families that edgeq reads, at a few channels and 16 x 16 pixels.
Every network is seeded, so that a test sees the same file each time. Entry points: `NETS`, `make_net`,
`export_torchscript`, `export_dynamo`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from nets.exporters import INPUT, OUTPUT, SHAPE, export_dynamo, export_torchscript
from torch import Tensor, nn

__all__ = ["INPUT", "NETS", "OUTPUT", "SHAPE", "export_dynamo", "export_torchscript", "make_net"]

CLASSES = 10


def _conv_bn(
    cin: int, cout: int, size: int = 3, stride: int = 1, groups: int = 1
) -> list[nn.Module]:
    conv = nn.Conv2d(cin, cout, size, stride, size // 2, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(cout)]


class PadShortcut(nn.Module):
    """Option A of the CIFAR ResNet: every other pixel, and zero channels on both sides."""

    def __init__(self, extra: int) -> None:
        super().__init__()
        self.extra = extra

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.extra // 2, self.extra // 2))


class BasicBlock(nn.Module):
    def __init__(self, cin: int, cout: int, stride: int, option: str) -> None:
        super().__init__()
        self.body = nn.Sequential(*_conv_bn(cin, cout, 3, stride), nn.ReLU(), *_conv_bn(cout, cout))
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 and option == "A":
            self.shortcut = PadShortcut(cout - cin)
        elif stride != 1:
            self.shortcut = nn.Sequential(*_conv_bn(cin, cout, 1, stride))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.body(x) + self.shortcut(x))


class ResNet(nn.Module):
    """Pools with a window of the spatial size and flattens with `view`, as the common CIFAR code does."""

    def __init__(self, option: str) -> None:
        super().__init__()
        self.stem = nn.Sequential(*_conv_bn(3, 4), nn.ReLU())
        self.blocks = nn.Sequential(
            BasicBlock(4, 4, 1, option), BasicBlock(4, 8, 2, option), BasicBlock(8, 16, 2, option)
        )
        self.head = nn.Linear(16, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(self.stem(x))
        x = F.avg_pool2d(x, x.size()[3])
        return self.head(x.view(x.size(0), -1))


class ImageNetStem(nn.Module):
    """The stem and head of the ImageNet ResNets: 7 x 7 convolution, MaxPool with padding, global mean."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(*_conv_bn(3, 4, 7, 2), nn.ReLU(), nn.MaxPool2d(3, 2, 1))
        self.block = BasicBlock(4, 8, 2, "B")
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.flatten(self.pool(self.block(self.stem(x))), 1))


class VGG(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *_conv_bn(3, 4), nn.ReLU(), nn.MaxPool2d(2), *_conv_bn(4, 8), nn.ReLU(), nn.MaxPool2d(2)
        )
        self.pool = nn.AdaptiveAvgPool2d(2)
        self.classifier = nn.Sequential(
            nn.Linear(32, 16), nn.ReLU(), nn.Dropout(), nn.Linear(16, CLASSES)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(torch.flatten(self.pool(self.features(x)), 1))


class MobileNetV1(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        layers = [*_conv_bn(3, 4, 3, 2), nn.ReLU()]
        for cin, cout, stride in ((4, 8, 1), (8, 16, 2), (16, 16, 1)):
            layers += [*_conv_bn(cin, cin, 3, stride, cin), nn.ReLU()]
            layers += [*_conv_bn(cin, cout, 1), nn.ReLU()]
        self.features = nn.Sequential(*layers)
        self.head = nn.Linear(16, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x).mean([2, 3]))


class InvertedResidual(nn.Module):
    def __init__(self, cin: int, cout: int, stride: int) -> None:
        super().__init__()
        wide = 3 * cin
        self.has_skip = stride == 1 and cin == cout
        self.body = nn.Sequential(
            *_conv_bn(cin, wide, 1),
            nn.ReLU6(),
            *_conv_bn(wide, wide, 3, stride, wide),
            nn.ReLU6(),
            *_conv_bn(wide, cout, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x) if self.has_skip else self.body(x)


class MobileNetV2(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *_conv_bn(3, 4, 3, 2),
            nn.ReLU6(),
            InvertedResidual(4, 4, 1),
            InvertedResidual(4, 8, 2),
            InvertedResidual(8, 8, 1),
            *_conv_bn(8, 16, 1),
            nn.ReLU6(),
        )
        self.head = nn.Sequential(nn.Dropout(0.2), nn.Linear(16, CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.adaptive_avg_pool2d(self.features(x), (1, 1)).flatten(1))


NETS: dict[str, Callable[[], nn.Module]] = {
    "resnet_a": lambda: ResNet("A"),
    "resnet_b": lambda: ResNet("B"),
    "resnet_imagenet": ImageNetStem,
    "vgg": VGG,
    "mobilenet_v1": MobileNetV1,
    "mobilenet_v2": MobileNetV2,
}


def make_net(name: str, *, seed: int = 0) -> nn.Module:
    """Return the network called `name` in eval mode; its statistics are those of a few random batches."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = NETS[name]()
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias, std=0.3)
                module.momentum = None  # a plain average, so that a few batches are enough
        net.train()
        with torch.no_grad():
            for _ in range(4):
                net(torch.randn(16, *SHAPE))
    return net.eval()
