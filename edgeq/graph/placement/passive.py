"""Operators that get no Q/DQ of their own: the next weighted reader quantizes what they give.

Source: TensorRT developer guide, Q/DQ layer-placement recommendation 6: a Q/DQ pair that fuses with nothing is a kernel
of its own and can make INT8 slower than FP16. What each rule says of its operators: tensorrt.md 2.3 and 2.4.
"""

from __future__ import annotations

import onnx

from edgeq.core.specs import TargetCard
from edgeq.graph.placement.flow import MOVES, is_attention, moved_input
from edgeq.graph.placement.rule import PlacementView, Wish, label, placement_rule, site_of

GATES = frozenset({"HardSigmoid", "Sigmoid"})
_NORMS = (
    *("GroupNormalization", "InstanceNormalization", "LayerNormalization", "LogSoftmax"),
    *("RMSNormalization", "Softmax"),
)


@placement_rule(
    "activation",
    *("Celu", "Elu", "Erf", "Gelu", "HardSigmoid", "HardSwish", "LeakyRelu", "Mish", "PRelu"),
    *("Selu", "Sigmoid", "Softplus", "Swish", "Tanh"),
)
def pass_activation(view: PlacementView, node: onnx.NodeProto, card: TargetCard) -> list[Wish]:
    """Leave the input of an activation in float: it fuses to the kernel in front of it."""
    return _leave(
        view, node, "activation", "fuses to the kernel in front; the next weighted reader quantizes"
    )


@placement_rule("gated activation", "Mul")
def pass_gated_activation(
    view: PlacementView, node: onnx.NodeProto, card: TargetCard
) -> list[Wish]:
    """Leave x * gate(x) (SiLU and its kin) in float: convolution, gate and product become one kernel."""
    if not is_gated_activation(view, node):
        return []
    return _leave(
        view, node, "gated activation", "is x * gate(x), which fuses to the kernel that makes x"
    )


@placement_rule("squeeze and excite", "Mul")
def pass_squeeze_excite(view: PlacementView, node: onnx.NodeProto, card: TargetCard) -> list[Wish]:
    """Leave the product with a gate of one value a channel in float: it fuses with no convolution in front."""
    if is_gated_activation(view, node) or not _has_gate(view, node):
        return []
    return _leave(
        view,
        node,
        "squeeze and excite",
        "applies the gate of a squeeze-and-excite block, which no INT8 kernel takes",
    )


@placement_rule("product", "Mul")
def pass_product(view: PlacementView, node: onnx.NodeProto, card: TargetCard) -> list[Wish]:
    """Leave any other product in float."""
    if is_gated_activation(view, node) or _has_gate(view, node):
        return []
    return _leave(
        view, node, "product", "gets no Q/DQ of its own; the next weighted reader quantizes"
    )


@placement_rule("attention", "MatMul")
def pass_attention(view: PlacementView, node: onnx.NodeProto, card: TargetCard) -> list[Wish]:
    """Leave the two products of an attention block in float.

    INT8 attention would need Q/DQ on queries, keys, values and weights alike, under conditions that nobody has
    established.
    """
    if not is_attention(view, node):
        return []
    return _leave(
        view, node, "attention", "stays float: attention runs as one float kernel, or not fused"
    )


@placement_rule("normalisation", *_NORMS)
def pass_normalisation(view: PlacementView, node: onnx.NodeProto, card: TargetCard) -> list[Wish]:
    """Leave the input of a normalisation, a Softmax among them, in float: its sums need more than 8 bits."""
    return _leave(view, node, "normalisation", "runs in float; the next weighted reader quantizes")


@placement_rule("resize", "Resize", "Upsample")
def pass_resize(view: PlacementView, node: onnx.NodeProto, card: TargetCard) -> list[Wish]:
    """Leave the input of a Resize in float: the Q of its reader behind it is enough."""
    return _leave(view, node, "resize", "needs no pair in front: the Q of its reader is enough")


@placement_rule("data movement", *sorted(MOVES - {"MaxPool"}))
def pass_data_movement(view: PlacementView, node: onnx.NodeProto, card: TargetCard) -> list[Wish]:
    """Leave what only moves data alone: it commutes with Q and DQ, so its reader's Q moves in front of it."""
    if moved_input(view, node) is None:
        return []
    return _leave(
        view,
        node,
        "data movement",
        "commutes with Q and DQ, so it needs none of its own",
        first=True,
    )


def is_gated_activation(view: PlacementView, node: onnx.NodeProto) -> bool:
    """Return true if a Mul multiplies a tensor with a gate of the same tensor."""
    for index, name in enumerate(node.input):
        gate = view.producer(name)
        if gate is not None and gate.op_type in GATES and gate.input[0] == node.input[1 - index]:
            return True
    return False


def _has_gate(view: PlacementView, node: onnx.NodeProto) -> bool:
    """Return true if one operand is a gate with one value for each channel of the other."""
    for index, name in enumerate(node.input):
        gate, shape = view.producer(name), view.shape(name)
        other = view.shape(node.input[1 - index])
        if gate is None or gate.op_type not in GATES or shape is None or other is None:
            continue
        if shape != other and len(shape) > 2 and all(size == 1 for size in shape[2:]):
            return True
    return False


def _leave(
    view: PlacementView, node: onnx.NodeProto, rule: str, why: str, *, first: bool = False
) -> list[Wish]:
    """Return the wish to leave every float operand of the node (or its first one) in float."""
    return [
        Wish(
            tensor=name,
            site=site_of(node, index),
            quantize=False,
            rule=rule,
            reason=f"{label(node)} {why}",
        )
        for index, name in enumerate(node.input[:1] if first else node.input)
        if name and view.is_float(name) and view.constant_root(name) is None
    ]
