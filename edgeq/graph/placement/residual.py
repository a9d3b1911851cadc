"""Add: the shortcut of a residual connection is quantized, the branch that ends in a convolution is not.

Source: TensorRT developer guide, Q/DQ layer-placement recommendation 4: Conv + Add (+ ReLU) become one INT8 kernel if
the convolution's own output stays float and the other operand is quantized.
"""

from __future__ import annotations

import onnx

from edgeq.core.specs import TargetCard
from edgeq.graph.placement.flow import (
    WEIGHTED,
    is_weighted,
    moved_from,
    quantized_reads,
    value_readers,
)
from edgeq.graph.placement.rule import PlacementView, Wish, label, placement_rule, site_of
from edgeq.graph.placement.weighted import why_float
from edgeq.graph.view import GraphView, node_id

_RULE = "residual add"


@placement_rule(_RULE, "Add")
def quantize_residual_add(
    view: PlacementView, node: onnx.NodeProto, card: TargetCard
) -> list[Wish]:
    """Place Q/DQ on the operands of an Add.

    1. An operand is a constant, or the values are no float32: nothing.
    2. One operand comes straight from a weighted node that feeds only this Add: it stays float, the other is quantized.
    3. Both do: the branch with more weighted nodes behind the fork stays float, the other is quantized.
    4. Neither does: both are quantized if all readers of the sum are, else both stay float.
    """
    if not all(view.is_float(name) and view.constant_root(name) is None for name in node.input):
        return []
    branches = [index for index in (0, 1) if _ends_in_kernel(view, node, index)]
    if not branches:
        return _plain_add(view, node)
    main = branches[0] if len(branches) == 1 else _deeper_operand(view, node)
    kernel = view.producer(node.input[main])
    assert kernel is not None
    shortcut = node.input[1 - main]
    depth = " (the deeper of two branches)" if len(branches) == 2 else ""
    return [
        _wish(
            node,
            main,
            quantize=False,
            reason=f"stays float so that {label(kernel)}{depth} and {label(node)} become one kernel",
        ),
        _wish(
            node,
            1 - main,
            quantize=True,
            reason=f"shortcut of {label(node)}, whose precision the fused kernel takes",
            shares=tuple(moved_from(view, shortcut)),
        ),
    ]


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


def _plain_add(view: PlacementView, node: onnx.NodeProto) -> list[Wish]:
    quantize = bool(quantized_reads(view, node.output[0], through_clamps=True))
    reason = (
        f"operand of {label(node)}: no kernel to fuse with, and the sum is read quantized"
        if quantize
        else f"{label(node)} has no kernel to fuse with, and its sum is not read quantized everywhere"
    )
    return [_wish(node, index, quantize=quantize, reason=reason) for index in (0, 1)]


def _ends_in_kernel(view: GraphView, add: onnx.NodeProto, index: int) -> bool:
    tensor = add.input[index]
    kernel = view.producer(tensor)
    return (
        kernel is not None
        and kernel.op_type in WEIGHTED
        and why_float(view, kernel) is None
        and tensor not in view.outputs
        and len(list(value_readers(view, tensor))) == 1
        and _same_shape(view, add.input[0], add.input[1])
    )


def _same_shape(view: GraphView, left: str, right: str) -> bool:
    """Return false only for shapes that are known to differ: a broadcast Add does not fuse."""
    a, b = view.shape(left), view.shape(right)
    if a is None or b is None:
        return True
    return len(a) == len(b) and all(
        x == y or x is None or y is None for x, y in zip(a, b, strict=True)
    )


def _deeper_operand(view: PlacementView, add: onnx.NodeProto) -> int:
    """Return the operand with more weighted nodes between the fork and the Add; the first of equals."""
    left, right = (_ancestors(view, name) for name in add.input)
    common = left & right
    fork = max(common, key=lambda name: _position(view, name), default=None)
    depths = [_depth(view, name, fork) for name in add.input]
    return 0 if depths[0] >= depths[1] else 1


def _position(view: PlacementView, tensor: str) -> tuple[int, str]:
    node = view.producer(tensor)
    return (-1 if node is None else view.order[node_id(node)], tensor)


def _ancestors(view: GraphView, tensor: str) -> set[str]:
    """Return every tensor that `tensor` depends on, constants apart."""
    found: set[str] = set()
    waiting = [tensor]
    while waiting:
        node = view.producer(waiting.pop())
        for name in [] if node is None else node.input:
            if name and name not in found and view.constant_root(name) is None:
                found.add(name)
                waiting.append(name)
    return found


def _depth(view: PlacementView, tensor: str, fork: str | None) -> int:
    """Return the largest number of weighted nodes on a path from `fork` (or the graph inputs) to `tensor`."""
    members = _ancestors(view, tensor) | {tensor}
    depths = {fork: 0} if fork is not None else dict.fromkeys(view.inputs, 0)
    for node in view.nodes:
        if members.isdisjoint(node.output) or any(name in depths for name in node.output):
            continue
        known = [depths[name] for name in node.input if name in depths]
        if known:
            depth = max(known) + is_weighted(view, node)
            depths.update(dict.fromkeys(node.output, depth))
    return depths.get(tensor, 0)
