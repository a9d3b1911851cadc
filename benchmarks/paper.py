"""The `paper` setting of benchmarks/table.py: where methods of the QAT family put their quantizers when they publish.

Every weight of a convolution or matrix product has b bits, the first and the last layer's too, with a scale an output
channel. Activations are quantized where a ReLU (or a Clip from 0) makes them, for every reader, on an unsigned grid
with one scale a tensor. The picture, and what enters the last layer (the mean of a quantized map), stay float.
Deviation: weights are on the symmetric narrow grid (2 bits: -1, 0, 1), where the papers' are affine.

No target is placed like this and no file is written: the accuracy is that of the student in PyTorch, which holds the
integer weights, scales and biases that would be written.
Source: methods/quantization.md 1 and 2.11, policy of the QAT family.
"""

from __future__ import annotations

import dataclasses

import onnx

from edgeq.core.plan import Decision, Grid, OwnRange, QuantPlan, Role, Site
from edgeq.core.specs import BitSpec
from edgeq.graph.infer_ranks import infer_shapes
from edgeq.graph.placement.flow import clip_floor, is_weighted, value_readers
from edgeq.graph.placement.rule import PlacementView, label, site_of
from edgeq.graph.placement.weighted import channel_axis, why_float
from edgeq.pipeline.job import Job
from edgeq.pipeline.outputs import watched_tensors


def as_in_papers(job: Job) -> Job:
    """Return `job` with the placement of the `paper` setting, and the blocks that follow from it."""
    model = infer_shapes(job.folded)
    plan = plan_paper(model, job.options.bits)
    blocks, last_map = watched_tensors(model, plan)
    return dataclasses.replace(
        job, plan=plan, blocks=blocks, last_map=last_map if job.classes is not None else None
    )


def plan_paper(model: onnx.ModelProto, bits: BitSpec) -> QuantPlan:
    """Return the placement of the `paper` setting on `model`, whose shapes are inferred and BatchNorm folded."""
    view = PlacementView(model)
    decisions: dict[str, Decision] = {}
    for node in view.nodes:
        if is_weighted(view, node) and why_float(view, node) is None:
            tensor = view.constant_root(node.input[1])
            assert tensor is not None
            found = decisions.get(tensor)
            sites = (*(found.sites if found else ()), site_of(node, 1))
            decisions[tensor] = _weight(view, node, sites, bits)
        if _is_rectifier(view, node):
            tensor = node.output[0]
            sites = tuple(site_of(reader, index) for reader, index in value_readers(view, tensor))
            if sites:
                decisions[tensor] = _activation(node, sites, bits)
    return QuantPlan(target="paper", bits=str(bits), decisions=tuple(decisions.values()))


def _is_rectifier(view: PlacementView, node: onnx.NodeProto) -> bool:
    return node.op_type == "Relu" or (node.op_type == "Clip" and clip_floor(view, node) == 0)


def _weight(
    view: PlacementView, node: onnx.NodeProto, sites: tuple[Site, ...], bits: BitSpec
) -> Decision:
    tensor, values = view.constant_root(node.input[1]), view.constant(node.input[1])
    assert tensor is not None
    assert values is not None
    axis = channel_axis(node, values.ndim)
    return Decision(
        tensor=tensor,
        role=Role.WEIGHT,
        grid=Grid(bits=bits.weights, narrow=True, axis=axis),
        owner=OwnRange(),
        sites=sites,
        rule="paper",
        reason=f"weight of {label(node)}",
    )


def _activation(node: onnx.NodeProto, sites: tuple[Site, ...], bits: BitSpec) -> Decision:
    return Decision(
        tensor=node.output[0],
        role=Role.ACTIVATION,
        grid=Grid(bits=bits.activations, signed=False),
        owner=OwnRange(),
        sites=sites,
        rule="paper",
        reason=f"what {label(node)} makes",
    )
