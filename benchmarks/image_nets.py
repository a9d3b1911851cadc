"""MobileNetV2, ResNet-18 and ResNet-50 at 224 x 224: the layers of the papers, random weights, plausible BatchNorm.

Accuracy means nothing on them; their latency is that of the trained networks, because it does not depend on values.
Sources: Sandler et al., MobileNetV2, CVPR 2018, table 2; He et al., ResNet, CVPR 2016, table 1 (stride in the 3x3, as
PyTorch's model zoo has it). Main entry: `write_net`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SHAPE = (3, 224, 224)
CLASSES = 1000

# Expansion, channels, repeats, stride of the first.
_MOBILENET_STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
# Inner channels, repeats, stride of the first.
_RESNET_STAGES = ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2))


def _conv_bn(
    cin: int, cout: int, size: int, stride: int = 1, *, groups: int = 1, act: nn.Module | None
) -> nn.Sequential:
    conv = nn.Conv2d(cin, cout, size, stride, size // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(cout), *([act] if act else []))


def _shortcut(cin: int, cout: int, stride: int) -> nn.Module:
    if stride == 1 and cin == cout:
        return nn.Identity()
    return _conv_bn(cin, cout, 1, stride, act=None)


class InvertedResidual(nn.Module):
    """The block of MobileNetV2."""

    def __init__(self, cin: int, cout: int, *, stride: int, expansion: int) -> None:
        super().__init__()
        wide = cin * expansion
        self.has_skip = stride == 1 and cin == cout
        self.body = nn.Sequential(
            *([_conv_bn(cin, wide, 1, act=nn.ReLU6())] if expansion > 1 else []),
            _conv_bn(wide, wide, 3, stride, groups=wide, act=nn.ReLU6()),
            _conv_bn(wide, cout, 1, act=None),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output."""
        y: Tensor = self.body(x)
        return x + y if self.has_skip else y


class BasicBlock(nn.Module):
    """The block of ResNet-18."""

    def __init__(self, cin: int, cout: int, *, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            _conv_bn(cin, cout, 3, stride, act=nn.ReLU()), _conv_bn(cout, cout, 3, act=None)
        )
        self.shortcut = _shortcut(cin, cout, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output."""
        return F.relu(self.body(x) + self.shortcut(x))


class Bottleneck(nn.Module):
    """The block of ResNet-50."""

    def __init__(self, cin: int, inner: int, *, stride: int) -> None:
        super().__init__()
        cout = 4 * inner
        self.body = nn.Sequential(
            _conv_bn(cin, inner, 1, act=nn.ReLU()),
            _conv_bn(inner, inner, 3, stride, act=nn.ReLU()),
            _conv_bn(inner, cout, 1, act=None),
        )
        self.shortcut = _shortcut(cin, cout, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output."""
        return F.relu(self.body(x) + self.shortcut(x))


def mobilenet_v2() -> nn.Module:
    """Return MobileNetV2 of width 1."""
    blocks: list[nn.Module] = [_conv_bn(3, 32, 3, 2, act=nn.ReLU6())]
    cin = 32
    for expansion, cout, repeats, stride in _MOBILENET_STAGES:
        for index in range(repeats):
            step = stride if index == 0 else 1
            blocks.append(InvertedResidual(cin, cout, stride=step, expansion=expansion))
            cin = cout
    head = [_conv_bn(cin, 1280, 1, act=nn.ReLU6()), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*blocks, *head, nn.Linear(1280, CLASSES))


def resnet18() -> nn.Module:
    """Return ResNet-18."""
    blocks = _stem()
    cin = 64
    for cout, stride in ((64, 1), (128, 2), (256, 2), (512, 2)):
        blocks += [BasicBlock(cin, cout, stride=stride), BasicBlock(cout, cout, stride=1)]
        cin = cout
    return _with_head(blocks, cin)


def resnet50() -> nn.Module:
    """Return ResNet-50."""
    blocks = _stem()
    cin = 64
    for inner, repeats, stride in _RESNET_STAGES:
        for index in range(repeats):
            blocks.append(Bottleneck(cin, inner, stride=stride if index == 0 else 1))
            cin = 4 * inner
    return _with_head(blocks, cin)


def _stem() -> list[nn.Module]:
    return [_conv_bn(3, 64, 7, 2, act=nn.ReLU()), nn.MaxPool2d(3, 2, 1)]


def _with_head(blocks: list[nn.Module], width: int) -> nn.Module:
    return nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, CLASSES))


NETS: dict[str, Callable[[], nn.Module]] = {
    "mobilenet_v2": mobilenet_v2,
    "resnet18": resnet18,
    "resnet50": resnet50,
}


def write_net(name: str, path: Path, *, seed: int = 0) -> None:
    """Write the network `name` of `NETS` to `path`: opset 17, dynamic batch, BatchNormalization kept.

    The BatchNorm statistics are those of a batch of noise, so that signals neither vanish nor explode.
    """
    torch.manual_seed(seed)
    net = NETS[name]()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # a plain average
    with torch.no_grad():
        net.train()(torch.randn(4, *SHAPE))
    torch.onnx.export(
        net.eval(),
        (torch.zeros(2, *SHAPE),),
        str(path),
        dynamo=False,
        opset_version=17,
        training=torch.onnx.TrainingMode.PRESERVE,
        do_constant_folding=False,
        input_names=["input"],
        output_names=["logits"],
        dynamic_axes={"input": {0: "batch"}, "logits": {0: "batch"}},
    )
