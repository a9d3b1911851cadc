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
        bias: b <- mean y - a (mean y_q - b).
    Layers without a bias of their own stay as they are: the file has none to be changed. Where a weight has one scale
    for all channels, its variance stays.

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
    of_layer = {
        site.node: decision.tensor
        for decision in problem.plan.quantized(Role.WEIGHT)
        for site in decision.sites
    }
    layers = {layer: (tensor, bias) for tensor, (bias, layer) in student.biases().items()}
    nodes = [
        node for node in problem.teacher.module.graph.nodes if node.meta.get("onnx_node") in layers
    ]
    start = [problem.teacher.fx_node_of[name] for name in problem.teacher.inputs]
    for node in nodes:
        _, bias = layers[node.meta["onnx_node"]]
        mean, variance = _moments(cone(problem.teacher.module, start, (node.name,)), x, batch)
        found, spread = _moments(cone(student.teacher.module, start, (node.name,)), x, batch)
        gain = torch.ones_like(mean)
        weight = of_layer[node.meta["onnx_node"]]
        if spec.variance and student.quantizers[weight].log_scale.ndim == 1:
            gain = (variance / spread.clamp_min(1e-12)).sqrt().clamp(1 / LARGEST_GAIN, LARGEST_GAIN)
            gain = torch.where(variance > 0, gain, torch.ones_like(gain))
            _rescale(student, weight, gain)
        with torch.no_grad():
            if spec.bias:
                bias.copy_((mean - gain * (found - bias)).float())
            else:
                bias.mul_(gain.float())
    return len(nodes)


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


def _moments(part: fx.GraphModule, x: Sequence[Tensor], batch: int) -> tuple[Tensor, Tensor]:
    """Return mean and variance of each channel (axis 1; the last one of [N, T, C]), float64, over all samples."""
    count, total, squares = 0, torch.zeros(1), torch.zeros(1)
    with torch.no_grad():
        for rows in zip(*(torch.split(item, batch) for item in x), strict=True):
            value = part(*rows)[0].double()
            flat = value.flatten(0, 1) if value.ndim == 3 else value.movedim(1, 0).flatten(1).T
            count += len(flat)
            total = total + flat.sum(0)
            squares = squares + flat.square().sum(0)
    mean = total / count
    return mean, (squares / count - mean.square()).clamp_min(0)
