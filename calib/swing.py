"""Swing convolution: strided convolutions that look at a grid which moves by chance."""

from __future__ import annotations

import torch
from torch import Tensor, fx, nn


class Swing(nn.Module):
    """Shifts x [N, C, H, W] by up to `reach` pixels each way, with reflected borders; one offset a call."""

    def __init__(self, reach: int, generator: torch.Generator) -> None:
        super().__init__()
        self._reach = reach
        self._generator = generator

    def forward(self, x: Tensor) -> Tensor:
        """Return the shifted picture; one that is too small to be reflected stays."""
        reach = self._reach
        if x.ndim != 4 or min(x.shape[-2:]) <= reach:
            return x
        height, width = x.shape[-2:]
        down, right = torch.randint(0, 2 * reach + 1, (2,), generator=self._generator).tolist()
        wide = nn.functional.pad(x, (reach,) * 4, mode="reflect")
        return wide[..., down : down + height, right : right + width]


def add_swing(module: fx.GraphModule, reach: int, generator: torch.Generator) -> int:
    """Put a swing in front of every convolution of `module` that has a stride; return how many there are.

    A strided convolution never looks at some pairs of neighbours, so its gradient draws a checkerboard on the picture.
    Shifting its grid by chance spreads the gradient.

    Args:
        module: changed in place; its nodes carry the meta of `edgeq.teacher.teacher.Teacher`.
        reach: 1 in the paper; 0 leaves the network as it is.
        generator: of the offsets, one a convolution and forward pass.

    Source: block D5, swing convolution of Genie (Jeon, Lee, Kim, CVPR 2023). Pooling stays as it is.
    """
    strided = [
        node
        for node in module.graph.nodes
        if node.meta.get("onnx_op") == "Conv"
        and any(stride != 1 for stride in node.kwargs.get("strides", ()))
    ]
    if reach == 0:
        return 0
    for index, node in enumerate(strided):
        name = f"swing_{index}"
        module.add_submodule(name, Swing(reach, generator))
        with module.graph.inserting_before(node):
            moved = module.graph.call_module(name, (node.args[0],))
        node.update_arg(0, moved)
    module.graph.lint()
    module.recompile()
    return len(strided)
