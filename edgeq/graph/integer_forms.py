"""Forms that ONNX Runtime's CPU kernels are faster on, written into a Q/DQ graph without changing a code.

Main entry: `fit_kernels`. The forms were found by timing ONNX Runtime 1.31.1 (benchmarks/cpu_latency.py); its
optimiser makes none of them by itself.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper

from edgeq.graph.codes import add_constant, dequantizer, forget, zero_point
from edgeq.graph.move_by_conv import move_by_conv
from edgeq.graph.unread import remove_unread
from edgeq.graph.view import GraphView, attribute, node_id, unique_name

# The kernel of convolutions with symmetric weights reads input channels by four; others are unfolded in memory first.
_CHANNELS = 4


def fit_kernels(model: onnx.ModelProto) -> None:
    """Rewrite `model`, a Q/DQ graph, in place.

    1. DQ -> Pad -> Q of one scale: Pad works on the codes, and pads with the zero point.
    2. Such a Pad that adds channels, with the strides in front of it: a convolution (`move_by_conv`).
    3. A convolution of 1 to 3 input channels: the codes get channels of zero points up to 4, the weight those of zeros.
    4. Left alone: a Pad whose result something else reads too, grouped convolutions, weights with several readers.
    """
    view = GraphView(model)
    for pad in [node for node in view.nodes if node.op_type == "Pad"]:
        _pad_codes(model.graph, GraphView(model), pad)
    move_by_conv(model)
    for conv in [node for node in view.nodes if _is_narrow(view, node)]:
        _widen(model.graph, GraphView(model), conv)


def _pad_codes(graph: onnx.GraphProto, view: GraphView, pad: onnx.NodeProto) -> None:
    before = dequantizer(view, pad.input[0])
    readers = view.consumers(pad.output[0])
    if before is None or len(readers) != 1 or readers[0][0].op_type != "QuantizeLinear":
        return
    after = readers[0][0]
    is_output = pad.output[0] in view.outputs
    if is_output or list(before.input[1:]) != list(after.input[1:]):
        return
    if attribute(pad, "mode", b"constant") == b"constant":
        value = zero_point(view, before)
        while len(pad.input) < 3:
            pad.input.append("")
        padding = pad.input[2]
        pad.input[2] = add_constant(graph, view, f"{pad.output[0]}/zero", value)
        remove_unread(graph, [padding] if view.constant_root(padding) == padding else [])
    pad.input[0] = before.input[0]
    forget(graph, pad.output[0])
    pad.output[0] = after.output[0]
    graph.node.remove(after)
    if len(view.consumers(before.output[0])) == 1:
        graph.node.remove(before)


def _is_narrow(view: GraphView, conv: onnx.NodeProto) -> bool:
    """Return true for a convolution on integers of fewer input channels than the kernel takes, with its own weight."""
    if conv.op_type != "Conv" or attribute(conv, "group", 1) != 1:
        return False
    before, weight = (dequantizer(view, name) for name in conv.input[:2])
    codes = None if weight is None else view.constant(weight.input[0])
    if before is None or weight is None or codes is None or codes.shape[1] >= _CHANNELS:
        return False
    return len(view.consumers(weight.input[0])) == len(view.consumers(weight.output[0])) == 1


def _widen(graph: onnx.GraphProto, view: GraphView, conv: onnx.NodeProto) -> None:
    before, weight = (dequantizer(view, name) for name in conv.input[:2])
    assert before is not None
    assert weight is not None
    codes = view.constant(weight.input[0])
    assert codes is not None
    spare = [(0, 0), (0, _CHANNELS - codes.shape[1]), *[(0, 0)] * (codes.ndim - 2)]
    narrow = weight.input[0]
    weight.input[0] = add_constant(graph, view, f"{narrow}/wide", np.pad(codes, spare))
    remove_unread(graph, [narrow])
    forget(graph, weight.output[0])
    sizes = np.array(spare, np.int64).T.reshape(-1)  # all lower ends, then all upper ones
    source = before.input[0]
    names = [
        add_constant(graph, view, f"{source}/sizes", sizes),
        add_constant(graph, view, f"{source}/zero", zero_point(view, before)),
    ]
    wide, floats = (
        unique_name(f"{name}/wide", view.names()) for name in (source, before.output[0])
    )
    position = [node_id(node) for node in graph.node].index(node_id(conv))
    graph.node.insert(
        position, helper.make_node("Pad", [source, *names], [wide], name=wide, mode="constant")
    )
    reader = helper.make_node("DequantizeLinear", [wide, *before.input[1:]], [floats], name=floats)
    graph.node.insert(position + 1, reader)
    conv.input[0] = floats
    if len(view.consumers(before.output[0])) == 1 and before.output[0] not in view.outputs:
        graph.node.remove(before)
