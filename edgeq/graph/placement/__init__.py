"""Decide, on ONNX and for a target, which tensors get Q/DQ: `plan_placement`.

Each rule family has one file; importing this package fills `RULES`. See `rule` for what a rule is and `resolve` for
how their wishes become one decision a tensor. It does not write nodes; `edgeq.graph.insert_qdq` does.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx

from edgeq.core.collector import collector_paused
from edgeq.core.errors import EdgeqBug, TargetError
from edgeq.core.plan import QuantPlan
from edgeq.core.specs import BitSpec, GraphFlavour, InputSpec, TargetCard
from edgeq.graph.placement import concat, integer, passive, pooling, residual, weighted
from edgeq.graph.placement.dla import quantize_for_dla
from edgeq.graph.placement.flow import WEIGHTED
from edgeq.graph.placement.integer import IntegerView
from edgeq.graph.placement.resolve import resolve
from edgeq.graph.placement.rule import RULES, PlacementView, Rule, Wish, apply_rules

__all__ = ["RULES", "Rule", "Wish", "plan_placement"]

RULE_FAMILIES = (concat, integer, passive, pooling, residual, weighted)


@collector_paused()
def plan_placement(
    model: onnx.ModelProto,
    *,
    card: TargetCard,
    bits: BitSpec,
    inputs: Sequence[InputSpec],
    for_dla: bool = False,
) -> QuantPlan:
    """Return the plan of placement for `model` on the target `card`.

    Args:
        model: BatchNorm folded, with inferred shapes; not changed.
        card: the target.
        bits: widths of weights and activations.
        inputs: the model's inputs; a picture's range is taken from its legal box.
        for_dla: quantize every tensor that DLA reads, instead of what the GPU gains from.

    Raises:
        TargetError: if the target has no INT8 arithmetic.
        EdgeqBug: if the shapes and types were not inferred.
    """
    _require_int8(card)
    is_integer = card.flavour is GraphFlavour.ORT_CPU
    view = IntegerView(model) if is_integer else PlacementView(model)
    _require_types(view)
    by_node: list[list[Wish]] = []
    for node in reversed(view.nodes):
        wishes = (quantize_for_dla if for_dla else apply_rules)(view, node, card)
        view.record(wishes)
        by_node.append(wishes)
    ordered = [wish for wishes in reversed(by_node) for wish in wishes]
    decisions = resolve(view, ordered, bits=bits, inputs=inputs, flavour=card.flavour)
    return QuantPlan(target=card.name, bits=str(bits), decisions=decisions)


def _require_int8(card: TargetCard) -> None:
    if card.runtime == "tensorrt" and not card.has_int8:
        raise TargetError(
            f"the target '{card.name}' ({card.title}) has no INT8 arithmetic",
            why="its TensorRT builds FP32 and FP16 engines only, so a Q/DQ model would not run there",
            mend="`edgeq targets` shows which number formats run on each target; choose one with int8",
        )


def _require_types(view: PlacementView) -> None:
    """Check that types were inferred: without them an Add of activations looks like shape arithmetic."""
    for node in view.nodes:
        if node.op_type in WEIGHTED and not view.element_type(node.output[0]):
            msg = f"placement needs inferred types, and '{node.output[0]}' has none"
            raise EdgeqBug(msg)
