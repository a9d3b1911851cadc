"""Inputs with structure, and BatchNorm statistics and LayerNorm gains as training would leave them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_BATCHNORMS = (nn.BatchNorm1d, nn.BatchNorm2d)
_NORMS = (*_BATCHNORMS, nn.LayerNorm, nn.GroupNorm)


def draw(shape: tuple[int, ...], count: int) -> Tensor:
    """Return [count, *shape] inputs from torch's generator: coarse structure and some noise, about -2..2."""
    noise = torch.randn(count, *shape)
    if len(shape) == 1:
        return noise.clamp(-2, 2)
    coarse = torch.randn(count, shape[0], *(-(-size // 4) for size in shape[1:]))
    modes = {2: "linear", 3: "bilinear"}
    smooth = F.interpolate(coarse, shape[1:], mode=modes[len(shape)], align_corners=False)
    return (smooth + 0.3 * noise).clamp(-2, 2)


def settle(net: nn.Module, inputs: dict[str, tuple[int, ...]]) -> nn.Module:
    """Give `net` uneven gains and shifts, and the BatchNorm statistics of a few batches; return it in eval mode."""
    for module in net.modules():
        if isinstance(module, _NORMS):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.3)
        if isinstance(module, _BATCHNORMS):
            module.momentum = None  # a plain average, so that a few batches are enough
    net.train()
    with torch.no_grad():
        for _ in range(4):
            net(*(draw(shape, 16) for shape in inputs.values()))
    return net.eval()
