"""What a unit is fitted to. Every reduction is stated."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx

from edgeq.quant.cones import closes, cone
from edgeq.quant.objectives import relative_error
from edgeq.quant.units import Unit
from edgeq.teacher.teacher import Teacher


def channel_axis(part: fx.GraphModule) -> int:
    """Return the axis of the channels of a unit's output, if it has three axes: 1 ([N, C, T]) or 2 ([N, T, C]).

    The nearest layer behind it, along first operands, says which: a convolution makes the one, a matrix product the
    other, and a Transpose of these two axes between them makes the one the other.
    """
    node, turned = part.graph.output_node(), 0
    while read := [item for item in node.all_input_nodes if item.op != "get_attr"]:
        node = read[0]
        kind = node.meta.get("onnx_op")
        if kind in {"Conv", "ConvTranspose"}:
            return 1 + turned
        if kind in {"Gemm", "MatMul"}:
            break
        if kind == "Transpose" and node.kwargs.get("perm") == (0, 2, 1):
            turned = 1 - turned
    return 2 - turned


def channel_error(made: Tensor, wanted: Tensor, power: float = 2.0, *, axis: int = 1) -> Tensor:
    """Return |made - wanted|^power, summed over channels, mean over samples and positions.

    Channels are axis 1, and `axis` of three axes (see `channel_axis`). The regulariser's weight depends on this sum.
    Source: the released code of BRECQ, QDrop, Genie and PD-Quant (`lp_loss`). BRECQ's paper weights it by Fisher
    information; its released script does not.
    """
    rows = made.numel() // made.shape[axis if made.ndim == 3 else 1]
    made, wanted = made.float(), wanted.float()
    apply: Callable[..., Tensor] = _PowerSum.apply
    return apply(made - wanted, power) / rows


class _PowerSum(torch.autograd.Function):
    """Sum of |x|^p, p > 1. The one power that is taken, |x|^(p - 1), gives the value and the gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, power: float) -> Tensor:
        slope = x if power == 2 else x.abs().pow_(power - 1).copysign_(x)
        ctx.save_for_backward(slope)
        ctx.power = power
        return torch.dot(slope.flatten(), x.flatten())

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (slope,) = ctx.saved_tensors
        return slope * (grads[0] * ctx.power), None


def suffix_of(teacher: Teacher, unit: Unit) -> fx.GraphModule | None:
    """Return the float network behind a block, up to the first output; None behind the last one, or inside a block."""
    final = teacher.fx_node_of[teacher.outputs[0]]
    if unit.output == final or not closes(teacher.module, (unit.output,), (final,)):
        return None
    return cone(teacher.module, (unit.output,), (final,))


def prediction_difference(
    suffix: fx.GraphModule, made: Tensor, wanted: Tensor, *, temperature: float, has_classes: bool
) -> Tensor:
    """Return KL(softmax(z / T) || softmax(z_hat / T)), summed over classes, mean over samples.

    z is what the float `suffix` makes of the teacher's value, z_hat what it makes of the unit's. Where the output gives
    no class scores, the relative squared error of the output takes its place (deviation).
    Source: PD-Quant (Liu et al., CVPR 2023); there is no factor T^2. Deviation: no distribution correction, which needs
    BatchNormalization unfolded; images that were matched to its statistics do not need it.
    """
    with torch.no_grad():
        (z,) = suffix(wanted)
    (z_hat,) = suffix(made)
    z, z_hat = z.float(), z_hat.float()
    if not has_classes:
        return relative_error(z_hat, z)
    return F.kl_div(
        F.log_softmax(z_hat / temperature, 1),
        F.log_softmax(z / temperature, 1),
        log_target=True,
        reduction="batchmean",
    )
