"""The work of a predicted kernel: multiply-accumulates, and the bytes that it moves. Entry: `count_work`.

Only Conv, ConvTranspose, Gemm and MatMul are counted in MACs; the others are bound by memory on any GPU. Tensors
between the nodes of one kernel cost nothing; codes count as stored, floats in the width that the kernel computes in.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import onnx
from onnx import TensorProto

from edgeq.graph.lint.check import DQ, Q
from edgeq.graph.placement.weighted import is_depthwise
from edgeq.graph.regions import Region
from edgeq.graph.regions.kernels import RegionView
from edgeq.graph.view import attribute, node_id

# Views of the same bytes.
_FREE = frozenset({"Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze"})
_BYTES: dict[int, float] = {
    TensorProto.FLOAT: 4,
    TensorProto.DOUBLE: 8,
    TensorProto.INT64: 8,
    TensorProto.INT32: 4,
    TensorProto.FLOAT16: 2,
    TensorProto.BFLOAT16: 2,
    TensorProto.INT4: 0.5,
    TensorProto.UINT4: 0.5,
    TensorProto.FLOAT4E2M1: 0.5,
}
_CODE_BYTES = 1.0  # INT8, UINT8, FP8, BOOL
_FLOATS = {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.UNDEFINED}


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What one kernel does.

    Attributes:
        macs: multiply-accumulates.
        weight_bytes, input_bytes, output_bytes: read and written in memory.
        is_depthwise: whether its convolution has one input channel a group.
        is_free: a view of bytes that are there already.
        unknown: tensors whose size is not known; their unknown axes count as 1.
    """

    macs: int
    weight_bytes: float
    input_bytes: float
    output_bytes: float
    is_depthwise: bool
    is_free: bool
    unknown: tuple[str, ...]

    @property
    def bytes(self) -> float:
        """Return all that is moved."""
        return self.weight_bytes + self.input_bytes + self.output_bytes


def count_work(view: RegionView, region: Region) -> Work:
    """Return the work of `region`; its shapes are those of `view`."""
    nodes = [_node(view, name) for name in region.nodes]
    made = {name for node in nodes for name in node.output if name}
    read = dict.fromkeys(
        name for node in nodes for name in _operands(node) if name and name not in made
    )
    inner = set(region.nodes)
    left = [
        name
        for name in made
        if name in view.outputs
        or any(node_id(node) not in inner for node, _ in view.consumers(name))
    ]
    weights = {name for name in read if name in view.static}
    ins, outs = _sides(region.precision)
    products = [node for node in nodes if node.op_type in _MACS]
    unknown = [name for name in (*read, *left) if _has_unknown_size(view, name)]
    return Work(
        macs=sum(_MACS[node.op_type](view, node) for node in products),
        weight_bytes=sum(_moved(view, name, ins) for name in weights),
        input_bytes=sum(_moved(view, name, ins) for name in read if name not in weights),
        output_bytes=sum(_moved(view, name, outs) for name in left),
        is_depthwise=any(node.op_type == "Conv" and is_depthwise(view, node) for node in products),
        is_free=all(node.op_type in _FREE for node in nodes),
        unknown=tuple(unknown),
    )


def _node(view: RegionView, name: str) -> onnx.NodeProto:
    node = view.producer(name)
    return node if node is not None else view.nodes[view.order[name]]


def _operands(node: onnx.NodeProto) -> list[str]:
    """Return what a node reads; scale and zero point of a Q or DQ are part of the kernel."""
    return list(node.input[:1] if node.op_type in {Q, DQ} else node.input)


def _sides(precision: str) -> tuple[float, float]:
    """Return the bytes of an element on the way in and on the way out of a kernel of that precision."""
    if " to " in precision:
        first, last = precision.split(" to ")
    elif " in, " in precision:
        first, last = precision.removesuffix(" out").split(" in, ")
    else:
        first = last = precision
    return _width(first), _width(last)


def _width(precision: str) -> float:
    if precision.startswith(("int8", "fp8")):
        return _CODE_BYTES
    if precision.startswith(("int4", "fp4")):
        return 0.5
    return 2.0 if precision.startswith(("fp16", "bf16")) else 4.0


def _moved(view: RegionView, name: str, width: float) -> float:
    """Return the bytes of a tensor: its codes where it comes from a DQ, else `width` for a float."""
    shape = view.shape(name) or ()
    count = math.prod(size or 1 for size in shape)
    dequantizer = view.dequantizer(name)
    if dequantizer is not None:
        kind = view.element_type(dequantizer.input[0])
        return count * _BYTES.get(kind, _CODE_BYTES)
    kind = view.element_type(name)
    if name in view.inputs and kind == TensorProto.FLOAT:
        return count * 4.0  # the network's input comes as the file says
    return count * (width if kind in _FLOATS else _BYTES.get(kind, _CODE_BYTES))


def _has_unknown_size(view: RegionView, name: str) -> bool:
    shape = view.shape(name)
    if shape is None and name in view.static:  # the inference leaves some constants out
        value = view.constant(name)
        return value is None
    return shape is None or None in shape


def _sizes(view: RegionView, name: str) -> list[int]:
    return [size or 1 for size in view.shape(name) or ()]


def _conv(view: RegionView, node: onnx.NodeProto) -> int:
    return math.prod(_sizes(view, node.output[0])) * math.prod(_sizes(view, node.input[1])[1:])


def _conv_transpose(view: RegionView, node: onnx.NodeProto) -> int:
    return math.prod(_sizes(view, node.input[0])) * math.prod(_sizes(view, node.input[1])[1:])


def _gemm(view: RegionView, node: onnx.NodeProto) -> int:
    first = _sizes(view, node.input[0])
    inner = first[0 if attribute(node, "transA", 0) else -1] if first else 1
    return math.prod(_sizes(view, node.output[0])) * inner


def _matmul(view: RegionView, node: onnx.NodeProto) -> int:
    inner = (_sizes(view, node.input[0]) or [1])[-1]
    return math.prod(_sizes(view, node.output[0])) * inner


_MACS = {"Conv": _conv, "ConvTranspose": _conv_transpose, "Gemm": _gemm, "MatMul": _matmul}


def fix_sizes(model: onnx.ModelProto, shapes: Mapping[str, Iterable[int]]) -> onnx.ModelProto:
    """Return a copy of `model` whose inputs have `shapes`, and whose other shapes are to be inferred anew."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    del copy.graph.value_info[:]
    for item in copy.graph.input:
        if item.name in shapes:
            axes = item.type.tensor_type.shape
            del axes.dim[:]
            for size in shapes[item.name]:
                axes.dim.add().dim_value = size
    for item in copy.graph.output:
        item.type.tensor_type.ClearField("shape")
    return copy
