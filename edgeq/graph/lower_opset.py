"""Bring a model to an older opset, where every node means the same there.

Entry: `lower_opset`. Most operators got their newer versions for more element types alone (bfloat16, 4 bits), so the
schemas of ONNX tell which nodes can stay as they are. What they do not tell (a new meaning in the old form) is listed
here, from the texts of the operators. `teacher.proof.require_same` holds the result against the original.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np
import onnx
from onnx import helper
from onnx.defs import OpSchema

from edgeq.core.errors import TargetError
from edgeq.graph.findings import listed
from edgeq.graph.passes import PassResult
from edgeq.graph.structure import walk_graphs
from edgeq.graph.unread import remove_unread
from edgeq.graph.view import GraphView, attribute, node_id

# Versions that gave an operator another meaning in the form that it had.
_NEW_MEANING = {
    ("GroupNormalization", 21): "scale and bias have one value a channel there, one a group below",
    ("GridSample", 20): "its modes have other names below",
}
# Versions that gave an attribute more values.
_NEW_VALUES: Mapping[tuple[str, int], tuple[str, frozenset[bytes]]] = {
    ("Pad", 19): ("mode", frozenset({b"wrap"})),
    ("Resize", 19): ("coordinate_transformation_mode", frozenset({b"half_pixel_symmetric"})),
    ("ScatterElements", 18): ("reduction", frozenset({b"max", b"min"})),
    ("ScatterND", 18): ("reduction", frozenset({b"max", b"min"})),
}
_TYPES = {number: f"tensor({name.lower()})" for name, number in onnx.TensorProto.DataType.items()}


def lower_opset(model: onnx.ModelProto, version: int, *, reader: str) -> PassResult:
    """Return `model` at opset `version`; the one passed in is not changed.

    1. A node whose operator has the same version in both opsets stays as it is.
    2. So does one whose version below differs in the element types alone, if it takes the node's.
    3. An attribute that the older version lacks goes where it has the value that the older version means.
    4. Constant axes of a reduction become an attribute again, and a Split into equal parts loses their number.
    5. Everything else is refused. A model of `version` or lower is returned as it is.

    Args:
        model: checked, without functions of its own.
        version: 13 or higher.
        reader: whose limit it is, for the message.

    Raises:
        TargetError: with every operator that has no equal form, and why.
    """
    opset = GraphView(model).opset
    if opset <= version:
        return PassResult(model=model, changed=False)
    lowered = onnx.ModelProto()
    lowered.CopyFrom(model)
    view = GraphView(onnx.shape_inference.infer_shapes(model))
    refused: list[str] = []
    changed: dict[str, None] = {}
    for graph in walk_graphs(lowered.graph):
        for node in graph.node:
            new = onnx.defs.get_schema(node.op_type, opset, "")
            if new.since_version > version:
                changed[node.op_type] = None
                reason = _lower(view, node, new, version)
                refused += [f"{node.op_type} '{node_id(node)}' ({reason})"] if reason else []
    if refused:
        raise TargetError(
            f"the model has opset {opset}; {reader} takes up to {version}, "
            f"which has no equal form of {listed(refused)}",
            why="its parser does not know newer operators, and a node is written in an older opset only where it "
            "means the same there",
            mend=f"export the model again with opset {version}",
        )
    read = {name for node in model.graph.node for name in node.input}
    still = {name for graph in walk_graphs(lowered.graph) for n in graph.node for name in n.input}
    remove_unread(lowered.graph, read - still)
    for item in lowered.opset_import:
        item.version = version if item.domain in {"", "ai.onnx"} else item.version
    told = f"opset {opset} was lowered to {version}, the newest that {reader} takes"
    if changed:
        told += f"; {listed(sorted(changed))} mean the same there"
    return PassResult(model=lowered, changed=True, touched=tuple(changed), findings=(told,))


def _lower(view: GraphView, node: onnx.NodeProto, new: OpSchema, version: int) -> str:
    """Bring `node` into its older form, in place; return why that cannot be, or ""."""
    if not onnx.defs.has(node.op_type, version, ""):
        return f"opset {new.since_version} brought it in"
    old = onnx.defs.get_schema(node.op_type, version, "")
    for item in _versions(node.op_type, above=old.since_version, to=new.since_version):
        reason = _NEW_MEANING.get((node.op_type, item))
        name, values = _NEW_VALUES.get((node.op_type, item), ("", frozenset()))
        if reason is None and (value := attribute(node, name)) in values:
            reason = f"its {name} '{value.decode()}' came with opset {item}"
        if reason is not None:
            return reason
    adapter = _move_axes if node.op_type.startswith("Reduce") else _ADAPTERS.get(node.op_type)
    reasons = (adapter(view, node, old) if adapter else "", _drop_attributes(node, new, old))
    return next(filter(None, reasons), "") or _find_misfit(view, node, old)


def _versions(op_type: str, *, above: int, to: int) -> Iterator[int]:
    """Yield the versions of an operator above one and up to another."""
    while to > above:
        yield to
        to = onnx.defs.get_schema(op_type, to - 1, "").since_version


def _drop_attributes(node: onnx.NodeProto, new: OpSchema, old: OpSchema) -> str:
    """Remove the attributes that `old` lacks and that say what it means; return why one of them does not, or ""."""
    for item in [item for item in node.attribute if item.name not in old.attributes]:
        default = new.attributes[item.name].default_value
        value = helper.get_attribute_value(item)
        is_default = default.name and value == helper.get_attribute_value(default)
        if not is_default and not (item.name == "dilations" and set(value) <= {1}):
            return f"its attribute {item.name} came later"
        node.attribute.remove(item)
    return ""


def _find_misfit(view: GraphView, node: onnx.NodeProto, old: OpSchema) -> str:
    """Return which input or output the older version does not take, or ""."""
    for names, formals, kind in (
        (node.input, old.inputs, "input"),
        (node.output, old.outputs, "output"),
    ):
        for index, name in enumerate(names):
            is_variadic = (
                bool(formals) and formals[-1].option is OpSchema.FormalParameterOption.Variadic
            )
            if index >= len(formals) and not is_variadic:
                if name:
                    return f"its {kind} {index}, '{name}', came later"
                continue
            formal = formals[min(index, len(formals) - 1)]
            number = view.element_type(name)
            if number and formal.types and _TYPES[number] not in formal.types:
                return f"its {kind} '{name}' is {_TYPES[number]}, which came later"
    return ""


def _move_axes(view: GraphView, node: onnx.NodeProto, old: OpSchema) -> str:
    """Make the axes of a reduction an attribute again, if the older version has one; return why not, or ""."""
    if "axes" not in old.attributes:
        return ""
    keeps_all = attribute(node, "noop_with_empty_axes", 0)
    axes = np.array([], np.int64)
    if len(node.input) > 1 and node.input[1]:
        found = view.constant(node.input[1])
        if found is None:
            return f"its axes '{node.input[1]}' are computed"
        axes = np.asarray(found)
    if keeps_all and not axes.size:
        return "without axes it reduces none, and all below"
    for item in [item for item in node.attribute if item.name == "noop_with_empty_axes"]:
        node.attribute.remove(item)
    del node.input[1:]
    if axes.size:
        node.attribute.append(helper.make_attribute("axes", axes.tolist()))
    return ""


def _drop_number(view: GraphView, node: onnx.NodeProto, old: OpSchema) -> str:
    """Remove the number of outputs of a Split into equal parts; return why they may differ, or ""."""
    number = attribute(node, "num_outputs")
    if not isinstance(number, int) or "num_outputs" in old.attributes:
        return ""
    shape = view.shape(node.input[0])
    axis = attribute(node, "axis", 0)
    size = shape[axis] if shape and isinstance(axis, int) else None
    if size is None or size % number:
        return f"its {number} parts are not known to be equal"
    for item in [item for item in node.attribute if item.name == "num_outputs"]:
        node.attribute.remove(item)
    return ""


_ADAPTERS: dict[str, Callable[[GraphView, onnx.NodeProto, OpSchema], str]] = {"Split": _drop_number}
