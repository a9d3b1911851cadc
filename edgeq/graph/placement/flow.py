"""How values flow: what only moves data, what is never negative, which layers are first and last."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import onnx

from edgeq.graph.placement.rule import PlacementView
from edgeq.graph.view import GraphView, attribute, node_id

WEIGHTED = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})

# Operators that commute with Q and DQ because every output value is an input value (or a padding zero).
MOVES = frozenset(
    {
        "DepthToSpace",
        "Dropout",
        "Flatten",
        "Identity",
        "MaxPool",
        "Pad",
        "Reshape",
        "Slice",
        "SpaceToDepth",
        "Split",
        "Squeeze",
        "Transpose",
        "Unsqueeze",
    }
)

# With zero point 0 these commute with Q as well, though they change values.
FUSED_CLAMPS = frozenset({"Clip", "Relu"})

# They read the shape of a tensor, not its values.
SHAPE_READERS = frozenset({"Shape", "Size"})

_NEVER_NEGATIVE = frozenset(
    {"Abs", "Exp", "HardSigmoid", "Relu", "Sigmoid", "Softmax", "Softplus", "Sqrt"}
)
_POOLS = frozenset({"AveragePool", "GlobalAveragePool", "GlobalMaxPool", "ReduceMean"})
_COMBINES = frozenset({"Add", "Concat", "Mul"})


def moved_input(view: GraphView, node: onnx.NodeProto) -> str | None:
    """Return the tensor whose values `node` only moves, or None if it computes."""
    if node.op_type not in MOVES or (node.op_type == "Pad" and not _pads_with_zero(view, node)):
        return None
    return str(node.input[0])


def moved_from(view: GraphView, tensor: str) -> list[str]:
    """Return the tensors from which `tensor` is reached through data movement alone, nearest first."""
    sources: list[str] = []
    while (node := view.producer(tensor)) is not None:
        source = moved_input(view, node)
        if source is None:
            break
        sources.append(source)
        tensor = source
    return sources


def quantized_reads(
    view: PlacementView, tensor: str, *, through_clamps: bool = False
) -> tuple[str, ...]:
    """Return the tensors at which `tensor` is read quantized, or () if any reader gets it in float.

    Data movement between the tensor and its readers is looked through, and Relu and Clip if `through_clamps`.
    """
    found: list[str] = []
    waiting = [tensor]
    while waiting:
        name = waiting.pop()
        if name in view.outputs:
            return ()
        for node, index in value_readers(view, name):
            passes = index == 0 and (
                moved_input(view, node) is not None
                or (through_clamps and node.op_type in FUSED_CLAMPS)
            )
            if view.reads_quantized(node, index):
                found.append(name)
            elif passes:
                waiting.extend(node.output if node.op_type == "Split" else node.output[:1])
            else:
                return ()
    return tuple(dict.fromkeys(found))


def value_readers(view: GraphView, tensor: str) -> Iterator[tuple[onnx.NodeProto, int]]:
    """Yield (node, input index) for the readers of `tensor` that use its values, not only its shape."""
    for node, index in view.consumers(tensor):
        if node.op_type not in SHAPE_READERS:
            yield node, index


def is_weighted(view: GraphView, node: onnx.NodeProto) -> bool:
    """Return true for a Conv, ConvTranspose, Gemm or MatMul whose weight is a constant."""
    return node.op_type in WEIGHTED and view.constant_root(node.input[1]) is not None


def is_attention(view: GraphView, node: onnx.NodeProto) -> bool:
    """Return true for a MatMul of two activations that gives scores to a Softmax or takes the weights of one.

    Between the two may stand scales, masks and data movement.
    """
    if node.op_type != "MatMul" or any(view.constant_root(name) for name in node.input):
        return False
    between = {"Add", "Cast", "Div", "Mul", "Where"}
    maker = view.producer(node.input[0])
    while maker is not None and moved_input(view, maker) is not None:
        maker = view.producer(maker.input[0])
    if maker is not None and maker.op_type == "Softmax":
        return True
    waiting, seen = [node.output[0]], set()
    while waiting:
        for reader, _ in value_readers(view, waiting.pop()):
            if reader.op_type == "Softmax":
                return True
            if reader.op_type in between | MOVES and node_id(reader) not in seen:
                seen.add(node_id(reader))
                waiting.append(reader.output[0])
    return False


def boundary_layers(view: GraphView) -> tuple[frozenset[str], frozenset[str]]:
    """Return the first and the last weighted nodes, by id.

    First: reached from a graph input without passing another weighted node. Last: a graph output is reached from
    it without passing another one. Shape arithmetic is no path.
    """
    first, last = set(), set()
    reached = set(view.inputs)
    for node in view.nodes:
        if node.op_type in SHAPE_READERS or reached.isdisjoint(node.input):
            continue
        if is_weighted(view, node):
            first.add(node_id(node))
        else:
            reached.update(node.output)
    reached = set(view.outputs)
    for node in reversed(view.nodes):
        if node.op_type in SHAPE_READERS or reached.isdisjoint(node.output):
            continue
        if is_weighted(view, node):
            last.add(node_id(node))
        else:
            reached.update(node.input)
    return frozenset(first), frozenset(last)


def made_by(view: GraphView, layers: frozenset[str]) -> frozenset[str]:
    """Return the outputs of the weighted nodes `layers`, and what follows from these alone without another.

    Constants and shape arithmetic may take part.
    """
    made = {name for node in view.nodes if node_id(node) in layers for name in node.output}
    fixed = {""}
    for node in view.nodes:
        values = {name for name in node.input if view.constant_root(name) is None} - fixed
        if node.op_type in SHAPE_READERS or not values:
            fixed.update(node.output)
        elif values <= made and not is_weighted(view, node):
            made.update(node.output)
    return frozenset(made)


def weighted_readers(view: GraphView, nodes: Iterable[onnx.NodeProto]) -> set[str]:
    """Return the weighted nodes among `nodes`, and those behind them through pools, Concat and data movement."""
    found: set[str] = set()
    waiting, seen = list(nodes), set()
    while waiting:
        node = waiting.pop()
        name = node_id(node)
        if name in seen:
            continue
        seen.add(name)
        if is_weighted(view, node):
            found.add(name)
        elif (
            node.op_type in _POOLS | FUSED_CLAMPS | {"Concat"}
            or moved_input(view, node) is not None
        ):
            waiting.extend(reader for out in node.output for reader, _ in value_readers(view, out))
    return found


def never_negative(view: GraphView) -> frozenset[str]:
    """Return the tensors that cannot hold a negative value, whatever the input."""
    found: set[str] = set()

    def is_safe(tensor: str) -> bool:
        if tensor in found:
            return True
        value = view.constant(tensor)
        return (
            value is not None
            and value.dtype.kind not in "OSU"
            and bool(np.all(np.asarray(value) >= 0))
        )

    for node in view.nodes:
        op = node.op_type
        if (
            op in _NEVER_NEGATIVE
            or (op == "Clip" and clip_floor(view, node) >= 0)
            or (_stays_between(view, node) and is_safe(node.input[0]))
            or (op in _COMBINES and all(is_safe(name) for name in node.input))
        ):
            found.update(node.output)
    return frozenset(found)


def _stays_between(view: GraphView, node: onnx.NodeProto) -> bool:
    """Return true if every output value lies between the smallest and the largest input value (or 0)."""
    if node.op_type == "Resize":
        return attribute(node, "mode", b"nearest") != b"cubic"  # a cubic filter overshoots
    return node.op_type in _POOLS or moved_input(view, node) is not None


def clip_floor(view: GraphView, node: onnx.NodeProto) -> float:
    """Return the lower bound of a Clip; minus infinity if it has none, or it is not known."""
    if len(node.input) > 1 and node.input[1]:
        floor = view.constant(node.input[1])
        return -np.inf if floor is None else float(np.asarray(floor).reshape(-1)[0])
    limit = attribute(node, "min")  # before opset 11
    return float(limit) if isinstance(limit, int | float) else -np.inf


def upper_bound(view: GraphView, tensor: str) -> float | None:
    """Return the constant of the Clip that `tensor` comes from, through data movement and pools, or None."""
    while (node := view.producer(tensor)) is not None:
        if node.op_type == "Clip":
            return clip_ceiling(view, node)
        if not _stays_between(view, node):
            return None
        tensor = node.input[0]
    return None


def clip_ceiling(view: GraphView, node: onnx.NodeProto) -> float | None:
    """Return the upper bound of a Clip; None if it has none, or it is not known."""
    limit = attribute(node, "max")  # before opset 11
    if len(node.input) > 2 and node.input[2]:
        ceiling = view.constant(node.input[2])
        limit = None if ceiling is None else float(np.asarray(ceiling).reshape(-1)[0])
    return float(limit) if isinstance(limit, int | float) and np.isfinite(limit) else None


def _pads_with_zero(view: GraphView, node: onnx.NodeProto) -> bool:
    if attribute(node, "mode", b"constant") != b"constant":
        return True
    if len(node.input) > 2 and node.input[2]:
        value = view.constant(node.input[2])
        return value is not None and not np.any(value)
    return not attribute(node, "value", 0.0)  # before opset 11
