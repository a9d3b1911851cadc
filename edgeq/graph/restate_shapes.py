"""Notes of shapes that the graph itself contradicts, or lacks at its outputs. Entry: `restate_shapes`.

Who gives an input another size leaves the notes of all other tensors behind, which `torch.onnx.export(dynamo=True)`
writes for every one. Runtimes pass over them; ONNX's strict inference, and what relies on it, refuses the file.
"""

from __future__ import annotations

import math

import onnx

from edgeq.graph.findings import listed
from edgeq.graph.passes import PassResult
from edgeq.graph.structure import FOREIGN_ERRORS
from edgeq.graph.view import GraphView

# Initializers of more values are weights; inference reads the values of shapes, axes and bounds alone.
_VALUES_MAX = 1024


def restate_shapes(model: onnx.ModelProto) -> PassResult:
    """Return `model` with the shapes that its graph gives; the one passed in is not changed.

    1. Where the notes inside the graph (value_info) contradict it, all of them go.
    2. Where the shape of an output contradicts it, or an output has none, the inferred one takes its place.
    3. Left alone: every other model, and one that is refused without its notes too.
    """
    outline = _outline(model)
    if _holds(outline):
        return PassResult(model=model, changed=False)
    del outline.graph.value_info[:]
    if _holds(outline):
        restated = onnx.ModelProto()
        restated.CopyFrom(model)
        del restated.graph.value_info[:]
        finding = "shapes that the file notes inside its graph contradict it; they are left out"
        return PassResult(model=restated, changed=True, findings=(finding,))
    return _restate_outputs(model, outline)


def _restate_outputs(model: onnx.ModelProto, outline: onnx.ModelProto) -> PassResult:
    for item in outline.graph.output:
        item.type.tensor_type.ClearField("shape")
        item.type.tensor_type.shape.SetInParent()  # the checker wants one
    try:
        onnx.checker.check_model(outline)
        for item in outline.graph.output:
            item.type.tensor_type.ClearField("shape")
        found = onnx.shape_inference.infer_shapes(outline, check_type=True, strict_mode=True)
    except FOREIGN_ERRORS:
        return PassResult(model=model, changed=False)
    restated = onnx.ModelProto()
    restated.CopyFrom(model)
    del restated.graph.value_info[:]
    declared, inferred = GraphView(model), GraphView(found)
    touched = []
    for item in restated.graph.output:
        shape = inferred.shape(item.name)
        if shape is not None and _differs(declared.shape(item.name), shape):
            kind = next(other.type for other in found.graph.output if other.name == item.name)
            item.type.tensor_type.shape.CopyFrom(kind.tensor_type.shape)
            touched.append(item.name)
    if not touched:
        return PassResult(model=model, changed=False)
    names = listed([f"'{name}'" for name in touched])
    finding = (
        f"the shape of {names} is not in the file, or not what its graph gives, which is taken"
    )
    return PassResult(model=restated, changed=True, touched=tuple(touched), findings=(finding,))


def _outline(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model without the values of its weights, which become inputs."""
    graph, view = model.graph, GraphView(model)
    outline = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import)
    outline.graph.CopyFrom(
        onnx.GraphProto(
            name=graph.name or "outline",
            node=graph.node,
            input=graph.input,
            output=graph.output,
            value_info=graph.value_info,
        )
    )
    listed_already = {item.name for item in graph.input}
    for name, tensor in view.initializers.items():
        if math.prod(tensor.dims) <= _VALUES_MAX:
            outline.graph.initializer.append(tensor)
        elif name not in listed_already:
            kind = onnx.helper.make_tensor_value_info(name, tensor.data_type, tensor.dims)
            outline.graph.input.append(kind)
    return outline


def _holds(model: onnx.ModelProto) -> bool:
    """Return true if ONNX's checker and its strict inference take the model."""
    try:
        onnx.checker.check_model(model, full_check=True)
    except FOREIGN_ERRORS:
        return False
    return True


def _differs(declared: tuple[int | None, ...] | None, found: tuple[int | None, ...]) -> bool:
    if declared is None or len(declared) != len(found):
        return True
    pairs = zip(declared, found, strict=True)
    return any(a is not None and b is not None and a != b for a, b in pairs)
