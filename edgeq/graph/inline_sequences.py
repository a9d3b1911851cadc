"""Replace sequences of tensors by the tensors: PyTorch writes `split` and `chunk` as a sequence, and takes its parts.

Entry: `inline_sequences`. A sequence stays, for the importer to refuse, unless its parts and their number are known.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import helper, numpy_helper

from edgeq.graph.structure import names_read_inside
from edgeq.graph.unread import remove_unread
from edgeq.graph.view import GraphView, attribute, unique_name

_SPLIT_INPUT_OPSET = 13  # below it the sizes of Split are an attribute


def inline_sequences(inferred: onnx.ModelProto, model: onnx.ModelProto) -> onnx.ModelProto:
    """Return `model` without the sequences that can be told apart; the same object if there are none.

    1. SplitToSequence becomes a Split with its sizes written down: those given, or those of an axis of known size.
    2. SequenceConstruct goes; its inputs are the parts.
    3. SequenceAt with a constant position gives its name to the part, ConcatFromSequence becomes a Concat of all.
    4. Left alone: a sequence that anything else reads, keepdims of 0, and a new axis.

    Args:
        inferred: `model` with inferred shapes.
        model: not changed.
    """
    view = GraphView(inferred)
    makers = {
        node.output[0]: node
        for node in view.nodes
        if node.op_type in {"SplitToSequence", "SequenceConstruct"}
    }
    kept = names_read_inside(model.graph) | set(view.outputs)
    used = view.names() | kept
    edits: dict[
        str, list[onnx.NodeProto]
    ] = {}  # what takes the place of the node that makes a tensor
    for name, maker in makers.items():
        if name not in kept:
            edits |= _take_apart(view, maker, used) or {}
    if not edits:
        return model
    result = onnx.ModelProto()
    result.CopyFrom(model)
    del result.graph.node[:]
    for node in model.graph.node:
        result.graph.node.extend(edits.get(node.output[0], [node]) if node.output else [node])
    for index in reversed(range(len(result.graph.value_info))):
        if result.graph.value_info[index].name in makers.keys() & edits.keys():
            del result.graph.value_info[index]
    read = {name for node in model.graph.node if node.output[0] in edits for name in node.input}
    constants = {name for name in read if view.constant_root(name) is not None}
    remove_unread(result.graph, constants)
    return result


def _take_apart(
    view: GraphView, maker: onnx.NodeProto, used: set[str]
) -> dict[str, list[onnx.NodeProto]] | None:
    """Return the nodes in place of those around one sequence, by what each made; None if it has to stay."""
    sequence = maker.output[0]
    is_split = maker.op_type == "SplitToSequence"
    sizes = _find_sizes(view, maker) if is_split else None
    if is_split and sizes is None:
        return None
    count = len(maker.input) if sizes is None else len(sizes)
    places = _find_places(view, sequence, count)
    if places is None:
        return None
    parts = list(maker.input)
    if is_split:
        first = {place: name for name, place in reversed(places.items())}
        parts = [first.get(i) or unique_name(f"{sequence}/{i}", used) for i in range(count)]
    edits = {sequence: _split(view, maker, parts, sizes, used) if sizes is not None else []}
    for name, place in places.items():
        is_part = parts[place] == name
        edits[name] = [] if is_part else [helper.make_node("Identity", [parts[place]], [name])]
    for node, _ in view.consumers(sequence):
        if node.op_type == "ConcatFromSequence":
            joined = helper.make_node(
                "Concat", parts, node.output, name=node.name, axis=attribute(node, "axis", 0)
            )
            edits[node.output[0]] = [joined]
    return edits


def _find_places(view: GraphView, sequence: str, count: int) -> dict[str, int] | None:
    """Return which part every SequenceAt takes, by its output; None if a reader of the sequence needs it as one."""
    places = {}
    for node, _ in view.consumers(sequence):
        if node.op_type == "ConcatFromSequence" and not attribute(node, "new_axis", 0):
            continue
        place = view.constant(node.input[1]) if node.op_type == "SequenceAt" else None
        if place is None or place.size != 1 or not -count <= place.item() < count:
            return None
        places[node.output[0]] = int(place.item()) % count
    return places


def _find_sizes(view: GraphView, node: onnx.NodeProto) -> list[int] | None:
    """Return the sizes of the parts of a SplitToSequence; None if they are not known."""
    given = view.constant(node.input[1]) if len(node.input) > 1 and node.input[1] else np.array(1)
    is_given = len(node.input) > 1 and bool(node.input[1])
    if given is None or not (is_given or attribute(node, "keepdims", 1)):
        return None
    if given.ndim == 1:
        return [int(size) for size in given]
    shape, axis = view.shape(node.input[0]), attribute(node, "axis", 0)
    assert isinstance(axis, int)
    total = shape[axis] if shape is not None and -len(shape) <= axis < len(shape) else None
    length = int(given.item())
    if not total or length < 1:
        return None
    return [min(length, total - start) for start in range(0, total, length)]


def _split(
    view: GraphView,
    node: onnx.NodeProto,
    parts: Sequence[str],
    sizes: Sequence[int],
    used: set[str],
) -> list[onnx.NodeProto]:
    axis = attribute(node, "axis", 0)
    if view.opset < _SPLIT_INPUT_OPSET:
        return [
            helper.make_node(
                "Split", [node.input[0]], parts, name=node.name, axis=axis, split=sizes
            )
        ]
    name = unique_name(f"{node.output[0]}/sizes", used)
    tensor = numpy_helper.from_array(np.asarray(sizes, np.int64), name)
    return [
        helper.make_node("Constant", [], [name], value=tensor),
        helper.make_node("Split", [node.input[0], name], parts, name=node.name, axis=axis),
    ]
