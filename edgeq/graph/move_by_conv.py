"""Strides and new channels between two tensors of codes, written as a convolution with the identity.

Main entry: `move_by_conv`. A residual network without weights in its shortcuts takes every second pixel and pads the
channels. ONNX Runtime's kernels keep channels last, where Slice and Pad copy a pixel's few channels at a time; one
convolution of 1x1 with a stride, ones on a diagonal and a scale of 1 gives the same codes in a third of the time.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from edgeq.graph.codes import add_constant, dequantizer, forget, has_one_reader, zero_point
from edgeq.graph.fold_shapes import evaluate_small
from edgeq.graph.unread import remove_dead, remove_unread
from edgeq.graph.view import GraphView, attribute, node_id, unique_name

# What the kernel of convolutions with symmetric weights takes; any other kernel would be slower than what it replaces.
_MULTIPLE, _LEAST_OUTPUTS = 4, 16
# The weights of a pixel. At 32 to 64 channels the convolution takes 0.4 to 0.6 of the time of the copies, whatever the
# size of the picture; at 64 to 128 as much, and at 128 to 256 twice as much (one and two threads, AVX512-VNNI).
_MOST_WEIGHTS = 32 * 64
_TO_THE_END = 2**31 - 1


@dataclass(slots=True)
class _Move:
    """Pad of channels and the Slices before it.

    Attributes:
        pad: works on codes.
        before: DequantizeLinear of the codes that enter.
        steps: stride by axis.
        inner: the nodes between `before` and `pad`, from the back.
    """

    pad: onnx.NodeProto
    before: onnx.NodeProto
    steps: dict[int, int] = field(default_factory=dict)
    inner: list[onnx.NodeProto] = field(default_factory=list)


def move_by_conv(model: onnx.ModelProto) -> None:
    """Rewrite `model`, a Q/DQ graph whose Pads work on codes, in place.

    1. (DQ -> Slice -> Q)* -> DQ -> ... -> Pad on codes -> DQ of one scale becomes DQ -> Conv -> Q -> DQ, if the Pad
       adds channels alone and every Slice takes each n-th pixel from the first to the last.
    2. Nodes that computed the constants of Slice and Pad go with them.
    3. Left alone: tensors that something else reads too, unknown numbers of channels, and numbers that the kernel does
       not take or that make the convolution the slower one.
    """
    pads = [node for node in model.graph.node if node.op_type == "Pad"]
    if not pads:
        return
    shapes = GraphView(onnx.shape_inference.infer_shapes(model, data_prop=True))
    for pad in pads:
        view = GraphView(model)
        move = _find_move(view, shapes, pad)
        identity = None if move is None else _identity(view, shapes, move)
        if move is not None and identity is not None:
            _write_conv(model.graph, view, move, identity)


def _find_move(view: GraphView, shapes: GraphView, pad: onnx.NodeProto) -> _Move | None:
    """Return what ends in `pad`, or None if that is no move of codes in one scale."""
    readers = [node for node, _ in view.consumers(pad.output[0])]
    if not readers or readers[0].op_type != "DequantizeLinear" or pad.output[0] in view.outputs:
        return None
    grid = list(readers[0].input[1:])
    if any(list(node.input[1:]) != grid for node in readers):
        return None
    steps: dict[int, int] = {}
    inner: list[onnx.NodeProto] = []
    codes = pad.input[0]
    while (nodes := _slice_of_codes(view, codes, grid)) is not None:
        found = _steps(shapes, nodes[1])
        if found is None:
            break
        steps = {axis: steps.get(axis, 1) * found.get(axis, 1) for axis in steps | found}
        inner += nodes
        codes = nodes[-1].input[0]
        if not has_one_reader(view, nodes[-1].output[0]):
            break
    return _Move(pad=pad, before=inner.pop(), steps=steps, inner=inner) if inner else None


def _slice_of_codes(view: GraphView, codes: str, grid: list[str]) -> list[onnx.NodeProto] | None:
    """Return Q, Slice and DQ, in this order, if these alone make `codes`, on `grid`, and nothing else reads between."""
    quantizer = view.producer(codes)
    if quantizer is None or quantizer.op_type != "QuantizeLinear":
        return None
    cut = view.producer(quantizer.input[0])
    if cut is None or cut.op_type != "Slice" or len(cut.input) != 5:
        return None
    before = dequantizer(view, cut.input[0])
    if before is None or not list(quantizer.input[1:]) == list(before.input[1:]) == grid:
        return None
    if not all(has_one_reader(view, name) for name in (codes, cut.output[0])):
        return None
    return [quantizer, cut, before]


def _steps(shapes: GraphView, cut: onnx.NodeProto) -> dict[int, int] | None:
    """Return the steps by axis of a Slice that takes each n-th pixel of the whole picture, else None."""
    values = [evaluate_small(shapes, name, {}) for name in cut.input[1:]]
    if any(value is None for value in values):
        return None
    starts, ends, axes, steps = (np.ravel(np.asarray(value)).tolist() for value in values)
    if any(starts) or min(ends) < _TO_THE_END or min(axes) < 2 or min(steps) < 1:
        return None
    return dict(zip(axes, steps, strict=True))


def _identity(view: GraphView, shapes: GraphView, move: _Move) -> NDArray[np.int8] | None:
    """Return the weight [K, C, 1, ...] that gives each channel its new place; None if the kernel would not gain."""
    shape = shapes.shape(move.before.output[0])
    if shape is None or len(shape) < 3 or not shape[1]:
        return None
    added = _new_channels(view, shapes, move, len(shape))
    if added is None:
        return None
    channels, outputs = shape[1], shape[1] + sum(added)
    if channels % _MULTIPLE or outputs % _MULTIPLE or outputs < _LEAST_OUTPUTS:
        return None
    if channels * outputs > _MOST_WEIGHTS:
        return None
    identity = np.eye(outputs, channels, -added[0], dtype=np.int8)
    return identity.reshape(outputs, channels, *[1] * (len(shape) - 2))


def _new_channels(
    view: GraphView, shapes: GraphView, move: _Move, rank: int
) -> tuple[int, int] | None:
    """Return how many channels the Pad adds in front and behind; None if it does anything else."""
    pad = move.pad
    if attribute(pad, "mode", b"constant") != b"constant" or len(pad.input) != 3:
        return None
    sizes, value = evaluate_small(shapes, pad.input[1], {}), view.constant(pad.input[2])
    if sizes is None or sizes.size != 2 * rank or value is None:
        return None
    lower, upper = (int(sizes.flat[index]) for index in (1, rank + 1))
    others = np.count_nonzero(sizes) - np.count_nonzero([lower, upper])
    if others or min(lower, upper) < 0 or np.any(value != zero_point(view, move.before)):
        return None
    return lower, upper


def _write_conv(
    graph: onnx.GraphProto, view: GraphView, move: _Move, identity: NDArray[np.int8]
) -> None:
    codes = move.pad.output[0]
    constants: dict[str, NDArray[np.generic]] = {
        "identity": identity,
        "one": np.array(1, np.float32),
        "none": np.array(0, np.int8),
    }
    weight = [
        add_constant(graph, view, f"{codes}/{key}", value) for key, value in constants.items()
    ]
    used = view.names() | set(weight)
    floats, moved = (unique_name(f"{codes}/{key}", used) for key in ("identity/dq", "moved"))
    strides = [move.steps.get(axis, 1) for axis in range(2, identity.ndim)]
    conv = helper.make_node("Conv", [move.before.output[0], floats], [moved], name=moved)
    conv.attribute.append(helper.make_attribute("kernel_shape", identity.shape[2:]))
    conv.attribute.append(helper.make_attribute("strides", strides))
    new = [
        helper.make_node("DequantizeLinear", weight, [floats], name=floats),
        conv,
        helper.make_node("QuantizeLinear", [moved, *move.before.input[1:]], [codes], name=codes),
    ]
    position = [node_id(node) for node in graph.node].index(codes)
    for offset, node in enumerate(new):
        graph.node.insert(position + offset, node)
    _remove(graph, move)


def _remove(graph: onnx.GraphProto, move: _Move) -> None:
    """Remove what the convolution stands for, and what computed its constants."""
    gone = [move.pad, *move.inner]
    read = {name for node in gone for name in node.input}
    for node in gone:
        graph.node.remove(node)
        forget(graph, node_id(node))
    remove_unread(graph, read | remove_dead(graph, read))
