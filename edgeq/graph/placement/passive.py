"""Operators that get no Q/DQ of their own: the next weighted reader quantizes what they give.

Source: TensorRT developer guide, Q/DQ layer-placement recommendation 6: a Q/DQ pair that fuses with nothing is a kernel
of its own and can make INT8 slower than FP16.
"""

from __future__ import annotations

import onnx

from edgeq.core.specs import TargetCard
from edgeq.graph.placement.rule import PlacementView, Wish, label, placement_rule, site_of


@placement_rule(
    "leave alone",
    "Erf",
    "Gelu",
    "GroupNormalization",
    "HardSigmoid",
    "HardSwish",
    "InstanceNormalization",
    "LayerNormalization",
    "Mish",
    "Mul",
    "Resize",
    "Sigmoid",
    "Softmax",
    "Tanh",
)
def leave_alone(view: PlacementView, node: onnx.NodeProto, card: TargetCard) -> list[Wish]:
    """Leave every float operand of the node in float."""
    return [
        Wish(
            tensor=name,
            site=site_of(node, index),
            quantize=False,
            rule="leave alone",
            reason=f"{label(node)} gets no Q/DQ of its own; the next weighted reader quantizes",
        )
        for index, name in enumerate(node.input)
        if name and view.is_float(name) and view.constant_root(name) is None
    ]
