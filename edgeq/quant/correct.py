"""Undo what quantization did to the mean and the variance of each channel's output, layer by layer.

On the folded graph this is what re-estimating BatchNormalization comes to: its mean goes into the layer's bias, its
variance into the scale of the layer's weights, whose codes stay. Entry: `correct_outputs`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, fx

from edgeq.core.plan import Role
from edgeq.core.recipes import CorrectionSpec
from edgeq.quant.cones import cone
from edgeq.quant.student import Student
from edgeq.quant.train import TrainingProblem

# A channel whose variance was multiplied by more than its square, or divided, has too few codes to tell.
LARGEST_GAIN = 2.0


def correct_outputs(
    problem: TrainingProblem,
    student: Student,
    x: Sequence[Tensor],
    spec: CorrectionSpec,
    *,
    batch: int,
) -> int:
    """Correct the quantized layers of `student` in running order, in place; return how many were.

    With y the teacher's output of a layer and y_q the student's on the samples, per channel, layers before it being
    corrected already:
        variance: a = sqrt(Var y / Var y_q), W scale *= a (its codes stay); 1 where that is off;
        bias: b <- (mean y - a (mean y_q - beta b)) / beta; beta is 1 but for a Gemm that has its own.
    Layers without a bias of their own stay as they are: the file has none to be changed. Where a weight has no
    scale of its own for each output channel, or several layers read it, the variance stays.

    Args:
        problem: the teacher.
        student: with its final codes.
        x: samples, one tensor a graph input.
        spec: what is corrected.
        batch: samples that are run together.

    Source: the empirical bias correction of DFQ (Nagel et al., ICCV 2019), appendix D; the variance after ABN (He et
    al., Neural Processing Letters 2023). The second is a reconstruction: only its abstract was at hand, and on a folded
    graph there is no BatchNormalization to update.
    """
    alone = {
        decision.sites[0].node: decision.tensor
        for decision in problem.plan.quantized(Role.WEIGHT)
        if len(decision.sites) == 1
    }
    layers = {layer: (tensor, bias) for tensor, (bias, layer) in student.biases().items()}
    nodes = [
        node for node in problem.teacher.module.graph.nodes if node.meta.get("onnx_node") in layers
    ]
    start = [problem.teacher.fx_node_of[name] for name in problem.teacher.inputs]
    names = [node.name for node in nodes]
    wanted = _moments(cone(problem.teacher.module, start, names), x, batch)
    for node, (mean, variance) in zip(nodes, wanted, strict=True):
        _, bias = layers[node.meta["onnx_node"]]
        part = cone(student.teacher.module, start, (node.name,))
        ((found, spread),) = _moments(part, x, batch)
        beta = float(node.kwargs.get("beta", 1.0))  # what a Gemm multiplies its bias by
        gain = torch.ones_like(mean)
        weight = alone.get(node.meta["onnx_node"])
        if spec.variance and weight and _has_channels(student, weight, len(gain)):
            gain = (variance / spread.clamp_min(1e-12)).sqrt().clamp(1 / LARGEST_GAIN, LARGEST_GAIN)
            gain = torch.where(variance > 0, gain, torch.ones_like(gain))
            _rescale(student, weight, gain)
        with torch.no_grad():
            if spec.bias and beta:
                bias.copy_(((mean - gain * (found - beta * bias)) / beta).float())
            else:
                bias.mul_(gain.float())
    return len(nodes)


def _has_channels(student: Student, weight: str, count: int) -> bool:
    """Return true if a weight has a scale for each of `count` output channels."""
    return student.quantizers[weight].log_scale.shape == (count,)


def _rescale(student: Student, weight: str, gain: Tensor) -> None:
    """Multiply the scale of a weight, and the weight itself, once rounded, so that its codes stay."""
    quantizer = student.quantizers[weight]
    parameter = student.weights()[weight]
    shape = [1] * parameter.ndim
    assert quantizer.grid.axis is not None
    shape[quantizer.grid.axis] = -1
    with torch.no_grad():
        codes = quantizer.codes(parameter)
        quantizer.log_scale.add_(gain.log().float())
        parameter.copy_(codes * quantizer.scale().view(shape))


def _moments(part: fx.GraphModule, x: Sequence[Tensor], batch: int) -> list[tuple[Tensor, Tensor]]:
    """Return mean and variance of each channel of every output of `part`, float64, over all samples.

    Channels are axis 1: convolutions and Gemm alone have a bias.
    """
    sums: list[tuple[int, Tensor, Tensor]] = []
    with torch.no_grad():
        for rows in zip(*(torch.split(item, batch) for item in x), strict=True):
            batch_sums = [_sums(value.double()) for value in part(*rows)]
            if sums:
                pairs = zip(sums, batch_sums, strict=True)
                sums = [(n + m, a + c, b + d) for (n, a, b), (m, c, d) in pairs]
            else:
                sums = batch_sums
    return [(a / n, (b / n - (a / n).square()).clamp_min(0)) for n, a, b in sums]


def _sums(value: Tensor) -> tuple[int, Tensor, Tensor]:
    """Return the number of values a channel, their sums and the sums of their squares."""
    rows = value.movedim(1, 0).flatten(1)
    return rows.shape[1], rows.sum(1), rows.square().sum(1)
