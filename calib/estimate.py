"""A table of statistics for a network that recorded none, from its file alone.

Entry: `with_targets`. Both tables name the outputs of convolutions, into which BatchNorm is folded, so that the pixel
loop runs on them as it does on recorded ones. They are guesses, and say so (source "estimate"):
    leaves   what dead leaves give, when they are passed through the network: self-consistent statistics, layer by
             layer, of pictures that have no classes. The samples are then moved to classes and held to them.
    weights  what GZSQ works out from the weights (Sharma, Abraham, Rajendiran, IEEE TMM 2021).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, fx

from calib.problem import SynthesisProblem
from calib.statistics import VARIANCE_FLOOR, measure, pool_batches
from calib.synthesize import synthesize
from calib.units import make_unit
from edgeq.core.recipes import SynthesisSpec
from edgeq.core.specs import BNEntry, BNTable, Layout
from edgeq.teacher.teacher import with_outputs

# How many dead leaves are passed through the network at most; rounded up to whole batches.
LEAVES = 512


def with_targets(problem: SynthesisProblem, spec: SynthesisSpec, *, seed: int) -> SynthesisProblem:
    """Return the problem with the table that `spec.targets` asks for; empty where the network has no convolution.

    Args:
        problem: its own table is kept for "recorded" targets alone.
        spec: figures of the recipe.
        seed: of the build.
    """
    if spec.source != "optimise" or spec.targets == "recorded":
        return problem
    from_weights = spec.targets == "weights"
    table = table_from_weights(problem) if from_weights else table_from_leaves(problem, spec, seed)
    return dataclasses.replace(problem, table=table)


def table_from_leaves(problem: SynthesisProblem, spec: SynthesisSpec, seed: int) -> BNTable:
    """Return the moments of every convolution's output over dead leaves."""
    tensors = [node.meta["tensor"] for node in _convolutions(problem.teacher.module.graph)]
    plain = dataclasses.replace(spec, source="leaves", samples=min(LEAVES, spec.samples))
    made = synthesize(problem, plain, seed=seed).feed()
    device = problem.compute.device
    module = with_outputs(problem.teacher.on(device), tensors)
    inputs = [torch.from_numpy(made[name]).float().to(device) for name in problem.teacher.inputs]
    batches = zip(*(torch.split(x, spec.batch) for x in inputs), strict=True)
    with torch.no_grad():
        moments = [[measure(a) for a in module(*batch)[1]] for batch in batches]
    entries = []
    for tensor, parts in zip(tensors, zip(*moments, strict=True), strict=True):
        found = pool_batches(parts)
        entries.append(_entry(tensor, found.mean, found.var))
    return BNTable(entries=tuple(entries))


def table_from_weights(problem: SynthesisProblem) -> BNTable:
    """Return GZSQ's statistics: those of the input, N(0, 1), and of every convolution's output.

    Per output channel, with the mean mu_W and the standard deviation s_W of its weights and its bias b,
        mu = mu_W + b + mu',  s^2 = s_W^2 + s'^2,
    mu' and s' of the convolution before it in running order. Where the numbers of channels differ, mu' and s' become
    their means in every channel (GZSQ's empirical adjustment, of which only one case is published).

    Source: GZSQ, stages 1 and 2. The input takes part where it is a picture with its channels first.
    """
    module = problem.teacher.module
    entries = []
    mean, std = torch.zeros(1), torch.ones(1)
    first = problem.inputs[0]
    if first.layout is Layout.NCHW:
        mean, std = torch.zeros(first.channels), torch.ones(first.channels)
        unit = make_unit(first)  # the table has the model's own unit, which N(0, 1) need not be
        if unit.centre is None or unit.scale is None:
            entries.append(_entry(first.name, mean, std.square()))
        else:
            entries.append(_entry(first.name, unit.centre.flatten(), unit.scale.flatten().square()))
    for node in _convolutions(module.graph):
        constants = _constants(module, node)
        if constants is None:
            continue
        rows, bias = constants
        mean = rows.mean(1) + bias + _spread(mean, len(rows))
        std = (rows.var(1, correction=0) + _spread(std, len(rows)).square()).sqrt()
        entries.append(_entry(node.meta["tensor"], mean, std.square()))
    return BNTable(entries=tuple(entries))


def _convolutions(graph: fx.Graph) -> Sequence[fx.Node]:
    return [node for node in graph.nodes if node.meta.get("onnx_op") in {"Conv", "ConvTranspose"}]


def _constants(module: fx.GraphModule, node: fx.Node) -> tuple[Tensor, Tensor] | None:
    """Return the weights [K, R] of each output channel and the biases [K], or None where they are computed."""
    held = [arg for arg in node.args[1:3] if isinstance(arg, fx.Node)]
    if any(arg.op != "get_attr" for arg in held):
        return None
    weight, *biases = (getattr(module, str(arg.target)).detach().float() for arg in held)
    if node.meta["onnx_op"] == "ConvTranspose":
        groups = cast("int", node.kwargs.get("group", 1))
        weight = torch.cat([part.transpose(0, 1) for part in weight.chunk(groups)])
    return weight.flatten(1), biases[0] if biases else torch.zeros(len(weight))


def _spread(values: Tensor, count: int) -> Tensor:
    return values if len(values) == count else values.mean().expand(count)


def _entry(tensor: str, mean: Tensor, var: Tensor) -> BNEntry:
    return BNEntry(
        tensor=tensor,
        node=tensor,
        mean=tuple(mean.tolist()),
        var=tuple(var.tolist()),
        eps=VARIANCE_FLOOR,
        source="estimate",
    )
