"""What the forms for ONNX Runtime's CPU kernels share: questions about tensors of codes, and edits of a Q/DQ graph."""

from __future__ import annotations

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from edgeq.graph.view import GraphView, unique_name


def codes_name(tensor: str) -> str:
    """Return the name that the codes of `tensor` are given."""
    return f"{tensor}/q"


def dequantizer(view: GraphView, tensor: str) -> onnx.NodeProto | None:
    """Return the DequantizeLinear that makes `tensor`, or None."""
    node = view.producer(tensor)
    return node if node is not None and node.op_type == "DequantizeLinear" else None


def zero_point(view: GraphView, node: onnx.NodeProto) -> NDArray[np.generic]:
    """Return the zero point of a QuantizeLinear or DequantizeLinear of edgeq's, which always has one."""
    value = view.constant(node.input[2])
    assert value is not None
    return value


def has_one_reader(view: GraphView, tensor: str) -> bool:
    """Return true if one place of the graph reads `tensor`, and nobody outside."""
    return len(view.consumers(tensor)) == 1 and tensor not in view.outputs


def add_constant(
    graph: onnx.GraphProto, view: GraphView, wish: str, value: NDArray[np.generic]
) -> str:
    """Add `value` as an initializer to `graph`, which `view` shows, and return its name: `wish` if that is free."""
    name = unique_name(wish, view.names() | {item.name for item in graph.initializer})
    stored = np.ascontiguousarray(value).reshape(value.shape)
    graph.initializer.append(numpy_helper.from_array(stored, name))
    return name


def forget(graph: onnx.GraphProto, tensor: str) -> None:
    """Remove what the file says on the shape of a tensor that is gone or has another shape now."""
    for item in [item for item in graph.value_info if item.name == tensor]:
        graph.value_info.remove(item)
