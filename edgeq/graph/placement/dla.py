"""Placement for DLA: every tensor that a DLA layer reads is quantized, the opposite of the sparing placement for a GPU.

DLA takes no Q/DQ nodes: the scales go into a calibration cache, and a tensor without one drops its layer to FP16 or to
the GPU. Source: deployment/tensorrt.md 3.5, 6; NvInfer.h: both inputs of an element-wise layer, and input and output of
a pool, need one range. Unverified on hardware.
"""

from __future__ import annotations

import onnx

from edgeq.core.specs import TargetCard
from edgeq.graph.placement.flow import FUSED_CLAMPS, MOVES, SHAPE_READERS, WEIGHTED, value_readers
from edgeq.graph.placement.rule import PlacementView, Wish, apply_rules, label, site_of

_RULE = "dla"
_ELEMENTWISE = frozenset({"Add", "Max", "Min", "Mul", "Sub"})
_KEEPS_RANGE = MOVES | {"AveragePool", "Concat", "GlobalAveragePool", "GlobalMaxPool"}


def quantize_for_dla(view: PlacementView, node: onnx.NodeProto, card: TargetCard) -> list[Wish]:
    """Place Q/DQ for DLA.

    1. A weighted node: as for the GPU.
    2. A Relu or Clip that alone reads a weighted node or a sum: nothing, it becomes part of it.
    3. Any other node: every float operand; one scale for both operands of an element-wise node, and for what goes in
       and out of a pool, a Concat, or data movement.
    4. Left alone: constants, and readers of shapes.
    """
    if node.op_type in WEIGHTED:
        return apply_rules(view, node, card)
    names = [
        (index, name)
        for index, name in enumerate(node.input)
        if name and view.is_float(name) and view.constant_root(name) is None
    ]
    if node.op_type in SHAPE_READERS or not names:
        return []
    if _is_fused(view, node):
        reason = f"{label(node)} becomes part of the layer that makes its input"
        return [_wish(node, 0, quantize=False, reason=reason)]
    together = [name for _, name in names] if node.op_type in _ELEMENTWISE else []
    if node.op_type in _KEEPS_RANGE:
        together = [*(name for _, name in names), *filter(view.is_float, node.output)]
    reason = f"input of {label(node)}: DLA needs the range of every tensor"
    if len(together) > 1:
        reason += "; one range for what it joins"
    return [
        _wish(node, i, quantize=True, reason=reason, shares=tuple(t for t in together if t != name))
        for i, name in names
    ]


def _is_fused(view: PlacementView, node: onnx.NodeProto) -> bool:
    maker = view.producer(node.input[0])
    return (
        node.op_type in FUSED_CLAMPS
        and maker is not None
        and maker.op_type in WEIGHTED | _ELEMENTWISE
        and node.input[0] not in view.outputs
        and len(list(value_readers(view, node.input[0]))) == 1
    )


def _wish(
    node: onnx.NodeProto, index: int, *, quantize: bool, reason: str, shares: tuple[str, ...] = ()
) -> Wish:
    return Wish(
        tensor=node.input[index],
        site=site_of(node, index),
        quantize=quantize,
        rule=_RULE,
        reason=reason,
        shares=shares,
    )
