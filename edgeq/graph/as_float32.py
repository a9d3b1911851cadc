"""Files of half precision, computed in float32: their inputs and outputs keep their types, behind and before a Cast."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import AttributeProto, TensorProto, helper, numpy_helper

from edgeq.graph.passes import PassResult
from edgeq.graph.structure import walk_graphs
from edgeq.graph.view import GraphView, to_array, unique_name

HALF: dict[int, str] = {TensorProto.FLOAT16: "float16", TensorProto.BFLOAT16: "bfloat16"}
# Attributes of type int that name an element type.
_TYPE_ATTRIBUTES = {
    "Cast": "to",
    "EyeLike": "dtype",
    "RandomNormalLike": "dtype",
    "Bernoulli": "dtype",
}


def as_float32(model: onnx.ModelProto) -> PassResult:
    """Return `model` with float32 in place of float16 and bfloat16; the one passed in is not changed.

    1. Initializers, constants and the types that nodes name become float32.
    2. An input or output of half precision keeps its name and type, with a Cast between it and the rest. A bfloat16
       input gets one to bfloat16 in front of that, which does nothing but round where the input is held in float32.
       An input that is an output as well stays as it is there.
    3. Left alone: every other type, and models without half precision.
    """
    found = find_half_types(model)
    if not found:
        return PassResult(model=model, changed=False)
    wide = onnx.ModelProto()
    wide.CopyFrom(model)
    del wide.graph.value_info[:]
    used = GraphView(model).names()
    stored = {item.name for item in wide.graph.initializer}
    front: list[onnx.NodeProto] = []
    renamed: dict[str, str] = {}
    for item in wide.graph.input:
        if item.type.tensor_type.elem_type in HALF and item.name not in stored:
            front += _widen_input(item, used)
            renamed[item.name] = front[-1].output[0]
    back = [
        helper.make_node(
            "Cast",
            [unique_name(f"{item.name}/float32", used)],
            [item.name],
            to=item.type.tensor_type.elem_type,
        )
        for item in wide.graph.output
        if item.type.tensor_type.elem_type in HALF and item.name not in renamed
    ]
    made = {node.output[0]: node.input[0] for node in back}
    for item in wide.graph.input:
        if item.type.tensor_type.elem_type in HALF and item.name in stored:
            item.type.tensor_type.elem_type = TensorProto.FLOAT
            item.name = made.get(item.name, item.name)
    for tensor in wide.graph.initializer:
        tensor.name = made.get(tensor.name, tensor.name)
    widen(wide.graph)
    rename_reads(wide.graph, renamed | made)
    for node in wide.graph.node:
        for index, name in enumerate(node.output):
            node.output[index] = made.get(name, name)
    nodes = [*front, *wide.graph.node, *back]
    del wide.graph.node[:]
    wide.graph.node.extend(nodes)
    kinds = " and ".join(sorted(found))
    finding = f"the file is of {kinds}: it is computed in float32, and its inputs and outputs keep their types"
    return PassResult(model=wide, changed=True, touched=tuple(sorted(found)), findings=(finding,))


def _widen_input(item: onnx.ValueInfoProto, used: set[str]) -> list[onnx.NodeProto]:
    """Return the Casts behind an input of half precision; the last one gives float32."""
    kind, source, nodes = item.type.tensor_type.elem_type, item.name, []
    if kind == TensorProto.BFLOAT16:
        rounded = unique_name(f"{source}/bfloat16", used)
        nodes.append(helper.make_node("Cast", [source], [rounded], to=kind))
        source = rounded
    wide = unique_name(f"{item.name}/float32", used)
    return [*nodes, helper.make_node("Cast", [source], [wide], to=TensorProto.FLOAT)]


def find_half_types(model: onnx.ModelProto) -> set[str]:
    """Return the names of the half types that the inputs, outputs, initializers or constants have."""
    values = [*model.graph.input, *model.graph.output]
    types = {item.type.tensor_type.elem_type for item in values}
    types |= {item.data_type for item in model.graph.initializer}
    types |= {
        item.t.data_type
        for node in model.graph.node
        for item in node.attribute
        if item.type == AttributeProto.TENSOR
    }
    types |= {
        item.i for node in model.graph.node for item in node.attribute if _names_type(node, item)
    }
    return {HALF[kind] for kind in types if kind in HALF}


def _names_type(node: onnx.NodeProto, item: onnx.AttributeProto) -> bool:
    return _TYPE_ATTRIBUTES.get(node.op_type) == item.name


def widen(graph: onnx.GraphProto) -> None:
    """Make every initializer, constant and named type of half precision float32, in place; no input or output.

    The graphs inside If, Loop and Scan become float32 with their inputs and outputs.
    """
    for tensor in graph.initializer:
        _widen_tensor(tensor)
    for node in graph.node:
        for item in node.attribute:
            if item.type == AttributeProto.TENSOR:
                _widen_tensor(item.t)
            elif item.type == AttributeProto.GRAPH:
                widen(item.g)
                for value in (*item.g.input, *item.g.output, *item.g.value_info):
                    if value.type.tensor_type.elem_type in HALF:
                        value.type.tensor_type.elem_type = TensorProto.FLOAT
            elif _names_type(node, item) and item.i in HALF:
                item.i = TensorProto.FLOAT


def rename_reads(graph: onnx.GraphProto, names: Mapping[str, str]) -> None:
    """Let the nodes of `graph`, and of the graphs inside it, read tensors under their new names."""
    for inner in walk_graphs(graph):
        for node in inner.node:
            node.input[:] = [names.get(name, name) for name in node.input]


def _widen_tensor(tensor: onnx.TensorProto) -> None:
    if tensor.data_type in HALF:
        values = to_array(tensor).astype(np.float32)
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
