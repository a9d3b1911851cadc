"""Forms that ONNX Runtime's CPU kernels are faster on, written into a Q/DQ graph without changing a code.

Main entry: `fit_kernels`. The forms were found by timing ONNX Runtime 1.31.1 (benchmarks/cpu_latency.py); its
optimiser makes none of them by itself.
"""

from __future__ import annotations

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from edgeq.graph.codes import add_constant, dequantizer, forget, has_one_reader, zero_point
from edgeq.graph.move_by_conv import move_by_conv
from edgeq.graph.unread import remove_unread
from edgeq.graph.view import GraphView, attribute, node_id, unique_name

# The kernel of convolutions with symmetric weights reads input channels by four; others are unfolded in memory first.
_CHANNELS = 4


def fit_kernels(model: onnx.ModelProto) -> None:
    """Rewrite `model`, a Q/DQ graph, in place.

    1. DQ -> Pad -> Q of one scale: Pad works on the codes, and pads with the zero point.
    2. Such a Pad that adds channels, with the strides in front of it: a convolution (`move_by_conv`).
    3. A convolution of 1 to 3 input channels: what it reads gets channels of zeros up to 4, and so does the weight. An
       input of the graph gets them as floats, any other tensor as codes.
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
    if _is_read_from_input(view, before):
        _pad_input(graph, view, before, sizes)
    else:
        _pad_before(graph, view, conv, sizes)


def _is_read_from_input(view: GraphView, before: onnx.NodeProto) -> bool:
    """Return true if the codes are those of a float input of the graph, and one convolution alone reads them."""
    maker = view.producer(before.input[0])
    return (
        maker is not None
        and maker.op_type == "QuantizeLinear"
        and maker.input[0] in view.inputs
        and view.element_type(maker.input[0]) == onnx.TensorProto.FLOAT
        and has_one_reader(view, before.input[0])
        and has_one_reader(view, before.output[0])
    )


def _pad_input(
    graph: onnx.GraphProto, view: GraphView, before: onnx.NodeProto, sizes: NDArray[np.int64]
) -> None:
    """Let the QuantizeLinear before `before` read the input with zeros behind it, which become zero points.

    Behind the Q the padding would move fewer bytes. But the memory of the floats is free for the layers behind, and
    ONNX Runtime lays the tensors of a large batch closer together: MobileNetV2 takes 7 % less at batch 16, others as
    long as with padded codes.
    """
    quantizer = view.producer(before.input[0])
    assert quantizer is not None
    source = quantizer.input[0]
    names = [
        add_constant(graph, view, f"{source}/sizes", sizes),
        add_constant(graph, view, f"{source}/zero", np.array(0, np.float32)),
    ]
    wide = unique_name(f"{source}/wide", view.names())
    position = [node_id(node) for node in graph.node].index(node_id(quantizer))
    graph.node.insert(position, _pad([source, *names], wide))
    quantizer.input[0] = wide
    for tensor in (quantizer.output[0], before.output[0]):
        forget(graph, tensor)


def _pad_before(
    graph: onnx.GraphProto, view: GraphView, conv: onnx.NodeProto, sizes: NDArray[np.int64]
) -> None:
    """Let `conv` read its codes with zero points behind them."""
    before = dequantizer(view, conv.input[0])
    assert before is not None
    source = before.input[0]
    names = [
        add_constant(graph, view, f"{source}/sizes", sizes),
        add_constant(graph, view, f"{source}/zero", zero_point(view, before)),
    ]
    wide, floats = (
        unique_name(f"{name}/wide", view.names()) for name in (source, before.output[0])
    )
    position = [node_id(node) for node in graph.node].index(node_id(conv))
    graph.node.insert(position, _pad([source, *names], wide))
    reader = helper.make_node("DequantizeLinear", [wide, *before.input[1:]], [floats], name=floats)
    graph.node.insert(position + 1, reader)
    conv.input[0] = floats
    if has_one_reader(view, before.output[0]):
        graph.node.remove(before)


def _pad(inputs: list[str], output: str) -> onnx.NodeProto:
    return helper.make_node("Pad", inputs, [output], name=output, mode="constant")
