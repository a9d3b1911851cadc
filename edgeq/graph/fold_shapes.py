"""What known shapes decide: the values of Shape nodes and of the arithmetic on them, from ONNX's shape inference.

Entries: `fold_shapes`, and `evaluate_small` for one tensor that follows from what it found. The inference propagates
the values of shape tensors one axis at a time, so that a dynamic batch does not hide the other axes. It keeps them to
itself, but tells them as the shape of a probe: a ConstantOfShape.
"""

from __future__ import annotations

import logging
import math
from typing import Any

import numpy as np
import onnx
import onnx.version_converter
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from edgeq.graph.batch_axis import lacks_batch_axis
from edgeq.graph.structure import subgraphs
from edgeq.graph.view import GraphView, node_id, unique_name

Values = dict[str, NDArray[Any]]

_LOG = logging.getLogger(__name__)
_SHAPES = ("Shape", "Size")
_IR = 8  # of the probes alone, so that an initializer needs no input
_ELEMENTS_MAX = 64  # of what is computed from sizes; more are data
_OPSET = 13  # below it, ONNX's inference propagates no values


def fold_shapes(model: onnx.ModelProto) -> Values:
    """Return the values of int64 scalars and vectors that follow from known shapes, and of such constants.

    Args:
        model: with inferred shapes; not changed.
    """
    view = GraphView(model)
    nodes = shape_nodes(view)
    if not any(node.op_type in _SHAPES for node in nodes):
        return {}
    try:
        return _propagate(view, nodes)
    except (onnx.shape_inference.InferenceError, RuntimeError) as error:
        _LOG.warning("shapes were not folded, so they are computed at every run: %s", error)
        return {}


def infer_for_any_batch(view: GraphView) -> onnx.ModelProto:
    """Return the model with shapes inferred for any batch size: the batch axis of every input is dynamic.

    What follows from the batch size of the file must not be written into a network that is trained with another one.
    """
    freed = onnx.ModelProto()
    freed.CopyFrom(view.model)
    del freed.graph.value_info[:]
    batched = {name for name in view.inputs if not lacks_batch_axis(view, name)}
    for item in freed.graph.input:
        if item.name in batched and item.type.tensor_type.shape.dim:
            item.type.tensor_type.shape.dim[0].dim_param = "batch"
    for item in freed.graph.output:
        item.type.tensor_type.ClearField("shape")
    return onnx.shape_inference.infer_shapes(freed, data_prop=True)


def shape_nodes(view: GraphView) -> list[onnx.NodeProto]:
    """Return the nodes that depend on shapes and constants alone, in running order."""
    known = {"", *view.initializers}
    found = []
    for node in view.nodes:
        has_graph = any(item.HasField("g") for item in node.attribute)
        if node.op_type in _SHAPES or (known.issuperset(node.input) and not has_graph):
            found.append(node)
            known.update(node.output)
    return found


def _propagate(view: GraphView, nodes: list[onnx.NodeProto]) -> Values:
    """Return what shape inference knows of the outputs of `nodes` that are int64 scalars and vectors."""
    ranks = {
        name: len(shape)
        for node in nodes
        for name in node.output
        if view.element_type(name) == TensorProto.INT64
        and (shape := view.shape(name)) is not None
        and len(shape) <= 1
    }
    prefix = unique_name("probe", view.names())
    probes = _cut_out(view, nodes)
    axes = helper.make_tensor(f"{prefix}/axes", TensorProto.INT64, [1], [0])
    probes.graph.initializer.append(axes)
    for name, rank in ranks.items():
        vector = name if rank else f"{prefix}/vector/{name}"
        if not rank:
            probes.graph.node.append(helper.make_node("Unsqueeze", [name, axes.name], [vector]))
        probes.graph.node.append(
            helper.make_node("ConstantOfShape", [vector], [f"{prefix}/{name}"])
        )
    inferred = GraphView(onnx.shape_inference.infer_shapes(probes, data_prop=True))
    found: Values = {}
    for name, rank in ranks.items():
        shape = inferred.shape(f"{prefix}/{name}")
        if shape is not None and None not in shape:
            found[name] = np.array(shape if rank else shape[0], np.int64)
    return found


def _cut_out(view: GraphView, nodes: list[onnx.NodeProto]) -> onnx.ModelProto:
    """Return a model of `nodes`, with the activations that their Shape nodes read as its inputs."""
    cut = onnx.ModelProto(ir_version=_IR, opset_import=view.model.opset_import)
    cut.graph.CopyFrom(onnx.GraphProto(name="shapes", node=nodes))
    made = {name for node in nodes for name in node.output}
    for name in sorted({name for node in nodes for name in node.input} - made - {""}):
        if name in view.initializers:
            cut.graph.initializer.append(view.initializers[name])
        else:
            kind = view.element_type(name)
            cut.graph.input.append(helper.make_tensor_value_info(name, kind, view.shape(name)))
    return cut if view.opset >= _OPSET else onnx.version_converter.convert_version(cut, _OPSET)


def evaluate_small(view: GraphView, tensor: str, known: Values) -> NDArray[Any] | None:
    """Return the value of `tensor` if it follows from `known` values and constants, all of them small.

    ONNX's reference evaluator computes it: `fold_shapes` knows no booleans, no Range and no tensors of other types.
    """
    nodes: dict[str, onnx.NodeProto] = {}
    leaves: Values = {}
    waiting = [tensor]
    while waiting:
        name = waiting.pop()
        node = view.producer(name)
        if name in leaves or name in nodes or not name:
            continue
        value = known.get(name) if name in known else view.constant(name)
        if value is not None:
            leaves[name] = value
        elif node is None or not _is_small(view, name, known) or any(subgraphs(node)):
            return None
        else:
            nodes[name] = node
            waiting += node.input
    made = {node_id(node) for node in nodes.values()}
    graph = onnx.GraphProto(
        name="value",
        node=[node for node in view.nodes if node_id(node) in made],
        initializer=[numpy_helper.from_array(value, name) for name, value in leaves.items()],
        output=[onnx.ValueInfoProto(name=tensor)],
    )
    model = helper.make_model(graph, opset_imports=view.model.opset_import)
    try:
        (result,) = ReferenceEvaluator(model).run(None, {})
    except (
        ArithmeticError,
        AttributeError,
        LookupError,
        RuntimeError,
        TypeError,
        ValueError,
    ) as error:
        _LOG.warning("'%s' was not computed from known shapes: %s", tensor, error)
        return None
    return np.asarray(result)


def _is_small(view: GraphView, name: str, known: Values) -> bool:
    shape, node = view.shape(name), view.producer(name)
    if shape is not None and None not in shape:
        return math.prod(size or 0 for size in shape) <= _ELEMENTS_MAX
    if node is None or node.op_type != "Range":
        return False
    bounds = [evaluate_small(view, item, known) for item in node.input]
    if any(value is None or value.size != 1 for value in bounds):
        return False
    start, limit, step = (value.item() for value in bounds if value is not None)
    return bool(step) and (limit - start) / step <= _ELEMENTS_MAX
