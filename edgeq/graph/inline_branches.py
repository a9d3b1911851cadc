"""Replace an If whose condition is known by the branch that is taken.

Entry: `inline_branches`. A condition is known if it is a constant, or if static shapes decide it (exporters write
`If(Shape(x)[1] == 1)` for a squeeze); ONNX's reference evaluator computes it then. Every other If stays, and the
importer refuses it.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from edgeq.core.errors import ModelError
from edgeq.graph.fold_shapes import Values, fold_shapes
from edgeq.graph.structure import subgraphs, walk_graphs
from edgeq.graph.view import GraphView, attribute, node_id, unique_name

_LOG = logging.getLogger(__name__)

# A condition is computed from sizes; what has more elements than this is data.
_ELEMENTS_MAX = 64


def inline_branches(inferred: onnx.ModelProto, model: onnx.ModelProto) -> onnx.ModelProto:
    """Return `model` with the taken branch in place of every If of known condition; the same object if there is none.

    A branch's outputs take the names of the If's outputs; its other tensors are called `<If's output>/<name>`. Branches
    inside a branch come up in the next call, after shapes were inferred again.

    Args:
        inferred: `model` with inferred shapes.
        model: not changed.

    Raises:
        ModelError: if the branch does not give what the If gives.
    """
    view = GraphView(inferred)
    if not any(node.op_type == "If" for node in view.nodes):
        return model
    branches = _taken_branches(view)
    if not branches:
        return model
    used = {
        name
        for graph in walk_graphs(model.graph)
        for name in [
            *(item.name for item in (*graph.initializer, *graph.input)),
            *(name for node in graph.node for name in node.output),
        ]
    }
    result = onnx.ModelProto()
    result.CopyFrom(model)
    del result.graph.node[:]
    for node in model.graph.node:
        if node_id(node) in branches:
            _splice(result.graph, node, branches[node_id(node)], used)
        else:
            result.graph.node.append(node)
    return result


def _taken_branches(view: GraphView) -> dict[str, onnx.GraphProto]:
    """Return the branch of every If whose condition is known, by the node's id."""
    known: Values = fold_shapes(view.model)
    found = {}
    for node in view.nodes:
        if node.op_type != "If":
            continue
        value = _evaluate(view, node.input[0], known)
        if value is not None and value.size == 1:
            branch = attribute(node, "then_branch" if value.item() else "else_branch")
            if not isinstance(branch, onnx.GraphProto) or len(branch.output) != len(node.output):
                raise ModelError(
                    "an If whose branch gives another number of outputs",
                    why="ONNX demands that both branches give what the node gives",
                    mend="export the model again",
                    node=node_id(node),
                )
            found[node_id(node)] = branch
    return found


def _evaluate(view: GraphView, tensor: str, known: Values) -> NDArray[Any] | None:
    """Return the value of `tensor` if it follows from `known` values and constants, all of them small."""
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
        elif node is None or not _is_small(view, name) or any(subgraphs(node)):
            return None
        else:
            nodes[name] = node
            waiting += node.input
    made = {node_id(node) for node in nodes.values()}
    graph = onnx.GraphProto(
        name="condition",
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
        _LOG.warning("the condition '%s' was not computed, so its If stays: %s", tensor, error)
        return None
    return np.asarray(result)


def _is_small(view: GraphView, name: str) -> bool:
    shape = view.shape(name)
    return (
        shape is not None
        and None not in shape
        and math.prod(size or 0 for size in shape) <= _ELEMENTS_MAX
    )


def _splice(
    graph: onnx.GraphProto, node: onnx.NodeProto, branch: onnx.GraphProto, used: set[str]
) -> None:
    """Append the nodes and initializers of `branch` to `graph`, its outputs under the names that `node` gave them."""
    made = dict.fromkeys(name for inner in branch.node for name in inner.output if name)
    names: dict[str, str] = {}
    passed = []
    for inner, outer in zip(branch.output, node.output, strict=True):
        if inner.name in made:
            names[inner.name] = outer
        else:
            passed.append((inner.name, outer))
    local = [*made, *(item.name for item in branch.initializer)]
    own = {name: names.get(name) or unique_name(f"{node.output[0]}/{name}", used) for name in local}
    for item in branch.initializer:
        graph.initializer.add().CopyFrom(item)
        graph.initializer[-1].name = own[item.name]
    for inner in branch.node:
        graph.node.append(inner)
        _rename(graph.node[-1], own)
    for inner_name, outer in passed:
        graph.node.append(helper.make_node("Identity", [own.get(inner_name, inner_name)], [outer]))


def _rename(node: onnx.NodeProto, names: Mapping[str, str]) -> None:
    """Give the tensors of `node`, and what its subgraphs read, their new names."""
    node.input[:] = [names.get(name, name) for name in node.input]
    node.output[:] = [names.get(name, name) for name in node.output]
    for graph in subgraphs(node):
        for inner in graph.node:
            _rename(inner, names)
        for item in graph.output:
            item.name = names.get(item.name, item.name)
