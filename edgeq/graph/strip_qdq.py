"""Take all Q/DQ nodes out of a model again, for DLA, and keep their scales: `strip_qdq`.

TensorRT's implicit quantization reads the ranges of activations from a calibration cache and quantizes weights by
itself. Source: deployment/tensorrt.md 6.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from edgeq.core.numerics import dequantize
from edgeq.graph.infer_ranks import infer_shapes
from edgeq.graph.placement.flow import FUSED_CLAMPS
from edgeq.graph.unread import remove_unread
from edgeq.graph.view import GraphView, attribute

_Q, _DQ = "QuantizeLinear", "DequantizeLinear"
_LIMIT = 127


@dataclass(frozen=True, slots=True, kw_only=True)
class Stripped:
    """A model without Q/DQ nodes.

    Attributes:
        model: float, with the trained weights as they were dequantized.
        scales: of the activations that were quantized, by tensor name.
        channels: of all weights.
        regridded: channels whose largest code is not 127: TensorRT takes the largest value for it, so that the grid is
            another one than the trained one.
    """

    model: onnx.ModelProto
    scales: dict[str, float]
    channels: int
    regridded: int


def strip_qdq(model: onnx.ModelProto) -> Stripped:
    """Return `model` without its Q/DQ nodes; the input is not changed.

    1. A weight's codes, or its Q/DQ pair, become one float initializer under the name of what the DQ gave.
    2. Readers of an activation's DQ read the tensor that was quantized, whose scale is kept.
    3. Left alone: everything else.
    """
    view = GraphView(model)
    bare = onnx.ModelProto()
    bare.CopyFrom(model)
    graph = bare.graph
    del graph.node[:]
    read: dict[str, str] = {}
    scales: dict[str, float] = {}
    weights = []
    lost = set()
    for node in view.nodes:
        if node.op_type not in {_Q, _DQ}:
            graph.node.append(node)
            continue
        lost |= set(node.input) & set(view.initializers)
        source = node.input[0]
        quantizer = view.producer(source)
        if node.op_type == _Q:
            continue
        if quantizer is not None and quantizer.op_type == _Q:
            source = quantizer.input[0]
        if view.constant_root(source) is not None:
            weights.append(_weight(view, node, source))
            values = numpy_helper.from_array(weights[-1].values, node.output[0])
            graph.initializer.append(values)
        else:
            scale = view.constant(node.input[1])
            assert scale is not None
            scales[source] = float(scale)
            read[node.output[0]] = source
    for node in graph.node:
        node.input[:] = [read.get(name, name) for name in node.input]
    remove_unread(graph, lost)
    return Stripped(
        model=bare,
        scales=scales,
        channels=sum(item.channels for item in weights),
        regridded=sum(item.regridded for item in weights),
    )


def complete_scales(
    model: onnx.ModelProto, scales: Mapping[str, float], amax: Mapping[str, float]
) -> dict[str, float]:
    """Return a scale for every float tensor that the stripped `model` computes or reads, in graph order.

    1. The trained one.
    2. What a Relu or Clip alone reads gets the scale of its output: they become one layer.
    3. Every other one (the graph's outputs among them) gets its largest value on the samples over 127.
    """
    view = GraphView(infer_shapes(model))
    names = [*view.inputs, *(name for node in view.nodes for name in node.output if name)]
    found: dict[str, float] = {}
    for name in reversed(names):
        if view.element_type(name) != onnx.TensorProto.FLOAT or view.constant_root(name):
            continue
        readers = view.consumers(name)
        own = scales.get(name)
        if own is None and len(readers) == 1 and readers[0][0].op_type in FUSED_CLAMPS:
            own = found.get(readers[0][0].output[0])
        found[name] = own if own is not None else (amax.get(name, 0.0) or _LIMIT) / _LIMIT
    return {name: found[name] for name in names if name in found}


@dataclass(frozen=True, slots=True)
class _Weight:
    values: NDArray[np.float32]
    channels: int
    regridded: int


def _weight(view: GraphView, node: onnx.NodeProto, source: str) -> _Weight:
    stored, scale = view.constant(source), view.constant(node.input[1])
    assert stored is not None
    assert scale is not None
    axis = int(attribute(node, "axis", 1)) if scale.ndim else 0  # type: ignore[call-overload]
    scale32 = scale.astype(np.float32)
    values = (
        stored.astype(np.float32)
        if stored.dtype == np.float32
        else dequantize(stored.astype(np.int8), scale32, axis=axis)
    )
    shape = [1] * values.ndim
    if scale.ndim:
        shape[axis] = -1
    codes = np.rint(values / scale32.reshape(shape))
    others = tuple(index for index in range(values.ndim) if index != axis or not scale.ndim)
    largest = np.abs(codes).max(axis=others, initial=0)
    return _Weight(values, scale.size, int(np.count_nonzero(np.atleast_1d(largest) != _LIMIT)))
