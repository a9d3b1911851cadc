"""How many multiply-accumulates each node takes: where the time of a network goes, as an estimate. Entry: `count_macs`.

Only convolutions and matrix products are counted. The figure knows no memory traffic and no fusion: a depthwise
convolution, for instance, takes more time than its count says.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import onnx

from edgeq.graph.infer_ranks import infer_shapes
from edgeq.graph.view import GraphView, attribute, node_id

Shape = tuple[int | None, ...]


def count_macs(model: onnx.ModelProto, shapes: Mapping[str, Sequence[int]]) -> dict[str, int]:
    """Return the multiply-accumulates of one run, by node; nodes whose shapes are not known are left out.

    Args:
        model: is not changed.
        shapes: full shape of each input, for the axes that the file leaves open.
    """
    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    for item in fixed.graph.input:
        dims = item.type.tensor_type.shape.dim
        for dim, size in zip(dims, shapes.get(item.name, ()), strict=False):
            if not dim.HasField("dim_value"):
                dim.dim_value = size
    # Shapes that were inferred for an open batch would hide those of this one.
    del fixed.graph.value_info[:]
    view = GraphView(infer_shapes(fixed))
    counts = {node_id(node): _count(view, node) for node in view.nodes}
    return {name: count for name, count in counts.items() if count is not None}


def _count(view: GraphView, node: onnx.NodeProto) -> int | None:
    """Return the products of one node, or None for another operator or an unknown shape.

    Conv and ConvTranspose take one filter for each element of their output, or input; Gemm and MatMul the length of the
    axis that is summed over for each element of their output.
    """
    if node.op_type not in {"Conv", "ConvTranspose", "Gemm", "MatMul"}:
        return None
    left, right, made = (
        view.shape(name) for name in (node.input[0], node.input[1], node.output[0])
    )
    if node.op_type == "Conv":
        return _product(made, right and right[1:])
    if node.op_type == "ConvTranspose":
        return _product(left, right and right[1:])
    axis = 0 if node.op_type == "Gemm" and attribute(node, "transA", 0) else -1
    return _product(made, left and (left[axis],))


def _product(*shapes: Shape | None) -> int | None:
    """Return the product of all sizes, or None where one is not known."""
    sizes = [size for shape in shapes for size in (shape if shape is not None else (None,))]
    return None if None in sizes else math.prod(size for size in sizes if size is not None)
