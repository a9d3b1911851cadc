"""Models of half precision in float32, with every rounding that the file writes down.

ONNX Runtime's CPU has few FP16 kernels and none of bfloat16. For the rest it computes in float32 and leaves out the
rounding between two such nodes, so that an overflow of FP16 does not show. Explicit Casts are kept.
"""

from __future__ import annotations

import onnx
from onnx import TensorProto, helper

from edgeq.graph.as_float32 import HALF, find_half_types, rename_reads, widen
from edgeq.graph.infer_ranks import infer_shapes
from edgeq.graph.passes import PassResult
from edgeq.graph.view import GraphView, unique_name


def round_half(model: onnx.ModelProto) -> PassResult:
    """Return `model` with float32 in place of float16 and bfloat16; the one passed in is not changed.

    1. Every tensor of half precision that a node makes is rounded to its type, by a Cast there and one back.
    2. So is an input; inputs and outputs become float32, under their names.
    3. The graphs inside If, Loop and Scan compute in float32; what they give is rounded.
    4. Left alone: models without half precision.
    """
    if not find_half_types(model):
        return PassResult(model=model, changed=False)
    view = GraphView(infer_shapes(model))
    wide = onnx.ModelProto()
    wide.CopyFrom(model)
    del wide.graph.value_info[:]
    widen(wide.graph)
    used = view.names()
    nodes: list[onnx.NodeProto] = []
    rounded: dict[str, str] = {}
    for name in view.inputs:
        if view.element_type(name) in HALF:
            rounded[name] = unique_name(f"{name}/rounded", used)
            nodes += _round(name, rounded[name], view.element_type(name), used)
    rename_reads(wide.graph, rounded)
    for node in wide.graph.node:
        nodes.append(node)
        for index, name in enumerate(node.output):
            if name and view.element_type(name) in HALF and view.constant_root(name) is None:
                node.output[index] = unique_name(f"{name}/exact", used)
                nodes += _round(node.output[index], name, view.element_type(name), used)
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del wide.graph.node[:]
    wide.graph.node.extend(copies)
    for item in (*wide.graph.input, *wide.graph.output):
        if item.type.tensor_type.elem_type in HALF:
            item.type.tensor_type.elem_type = TensorProto.FLOAT
    return PassResult(model=wide, changed=True, touched=tuple(rounded))


def without_bfloat16(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return `model` as ONNX Runtime's Python interface can run it: without bfloat16, which numpy lacks.

    Float16 in such a file is rounded by Casts too; a model without bfloat16 is returned as it is.
    """
    return round_half(model).model if "bfloat16" in find_half_types(model) else model


def _round(source: str, target: str, kind: int, used: set[str]) -> list[onnx.NodeProto]:
    middle = unique_name(f"{target}/{HALF[kind]}", used)
    return [
        helper.make_node("Cast", [source], [middle], to=kind),
        helper.make_node("Cast", [middle], [target], to=TensorProto.FLOAT),
    ]
