"""Weights and axes that nodes compute from constants alone (a Transpose, a Cast, a Reshape) become initializers.

Entries: `fold_constants`, and `fold_bounds` for Slice. Exporters leave such nodes where they keep BatchNorm or compress
weights. A per-channel scale needs a stored weight, TensorRT's parser stored axes of a reduction, and shape inference
the bounds of a Slice. Other computed constants are left alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper
from onnx.reference import ReferenceEvaluator

from edgeq.core.errors import ModelError
from edgeq.graph.initializers import add_initializer
from edgeq.graph.passes import PassResult
from edgeq.graph.structure import DEFAULT_DOMAINS, subgraphs
from edgeq.graph.unread import remove_unread
from edgeq.graph.view import GraphView, node_id

_WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_RANDOM = frozenset(
    {
        "Bernoulli",
        "Multinomial",
        "RandomNormal",
        "RandomNormalLike",
        "RandomUniform",
        "RandomUniformLike",
    }
)


def fold_constants(model: onnx.ModelProto) -> PassResult:
    """Store every weight, bias and set of axes that is computed from constants.

    1. The second and third input of a Conv, ConvTranspose, Gemm or MatMul is looked at, and the second of a reduction
       (Reduce...). Where nodes compute it from initializers and Constant nodes alone, its value becomes an initializer
       of the same name, and those nodes go if nothing else reads them. Of the second input of a CastLike only the type
       counts.
    2. Left alone: an Identity of a constant, random values, nodes with subgraphs, and all else.

    `model` is not modified; folding twice is folding once.

    Raises:
        ModelError: if such a value cannot be computed.
    """
    return _fold(model, lambda node: node.op_type in _WEIGHTED or node.op_type.startswith("Reduce"))


def fold_bounds(model: onnx.ModelProto) -> PassResult:
    """Store the bounds, axes and steps of every Slice that are computed from constants, as `fold_constants` does.

    torch.onnx.export writes such arithmetic for `nn.MultiheadAttention` and `unflatten`: Slice(Shape(x), Mod(...)).
    ONNX's inference computes no Mod, and takes a Slice of unknown bounds for the whole shape.

    Raises:
        ModelError: if such a value cannot be computed.
    """
    return _fold(model, lambda node: node.op_type == "Slice")


def _fold(model: onnx.ModelProto, is_reader: Callable[[onnx.NodeProto], bool]) -> PassResult:
    """Store what the readers have beside their first input, where constants alone make it."""
    needs_types = any(node.op_type == "CastLike" for node in model.graph.node)
    view = GraphView(onnx.shape_inference.infer_shapes(model) if needs_types else model)
    order = {node_id(node): index for index, node in enumerate(view.nodes)}
    makers = {
        name: found
        for node in view.nodes
        if is_reader(node)
        for name in node.input[1:]
        if view.constant_root(name) is None and (found := _makers(view, order, name))
    }
    if not makers:
        return PassResult(model=model, changed=False)
    folded = onnx.ModelProto()
    folded.CopyFrom(model)
    _remove_nodes(folded.graph, set(makers))
    for name, nodes in makers.items():
        add_initializer(folded, name, _evaluate(view, name, nodes))
    read = {name for nodes in makers.values() for node in nodes for name in node.input}
    gone = remove_unread(folded.graph, read - set(makers) - {""})
    return PassResult(model=folded, changed=True, touched=(*makers, *gone))


def _makers(view: GraphView, order: dict[str, int], tensor: str) -> list[onnx.NodeProto]:
    """Return the nodes that compute `tensor` from constants alone, in running order; empty if anything else is read."""
    found: dict[str, onnx.NodeProto] = {}
    waiting = [tensor]
    while waiting:
        name = waiting.pop()
        node = view.producer(name)
        if not name or name in view.initializers or name in found:
            continue
        if node is None or not _is_plain(node):
            return []
        found[name] = _as_cast(view, node)
        waiting.extend(found[name].input)
    return sorted(found.values(), key=lambda node: order[node.output[0]])


def _as_cast(view: GraphView, node: onnx.NodeProto) -> onnx.NodeProto:
    """Return a CastLike as the Cast that it is, where the type is known; any other node as it is."""
    kind = view.element_type(node.input[1]) if node.op_type == "CastLike" else 0
    if not kind:
        return node
    return helper.make_node("Cast", [node.input[0]], list(node.output), to=kind)


def _is_plain(node: onnx.NodeProto) -> bool:
    """Return true for an operator of one output that gives the same value at every run."""
    return (
        node.domain in DEFAULT_DOMAINS
        and node.op_type not in _RANDOM
        and len(node.output) == 1
        and not any(subgraphs(node))
    )


def _evaluate(view: GraphView, tensor: str, nodes: list[onnx.NodeProto]) -> NDArray[Any]:
    """Return the value of `tensor`, which `nodes` compute.

    Raises:
        ModelError: if they cannot be computed.
    """
    read = {name for node in nodes for name in node.input if name in view.initializers}
    graph = onnx.GraphProto(
        name="constant",
        node=nodes,
        initializer=[view.initializers[name] for name in sorted(read)],
        output=[onnx.ValueInfoProto(name=tensor)],
    )
    model = onnx.ModelProto(
        ir_version=view.model.ir_version, opset_import=view.model.opset_import, graph=graph
    )
    try:
        (value,) = ReferenceEvaluator(model).run([tensor], {})
    except Exception as error:  # the evaluator lets through what any operator of it raises
        raise ModelError(
            f"'{tensor}' cannot be computed from its constants: {error}",
            why="a quantized layer needs a stored weight, a reduction stored axes, a Slice stored bounds",
            mend="check the model with onnx.checker, or export it again with constant folding",
            node=tensor,
        ) from error
    return np.asarray(value)


def _remove_nodes(graph: onnx.GraphProto, outputs: set[str]) -> None:
    """Remove the nodes that make `outputs`, and what is said of the type of those."""
    kept = [node for node in graph.node if outputs.isdisjoint(node.output)]
    copies = onnx.GraphProto(node=kept)
    graph.ClearField("node")
    graph.node.extend(copies.node)
    for index in reversed(range(len(graph.value_info))):
        if graph.value_info[index].name in outputs:
            del graph.value_info[index]
