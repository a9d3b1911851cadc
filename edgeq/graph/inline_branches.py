"""Replace an If whose condition is known by the branch that is taken.

Entry: `inline_branches`. A condition is known if it is a constant, or if static shapes decide it (exporters write
`If(Shape(x)[1] == 1)` for a squeeze); ONNX's reference evaluator computes it then. Every other If stays, and the
importer refuses it.
"""

from __future__ import annotations

from collections.abc import Mapping

import onnx
from onnx import helper

from edgeq.core.errors import ModelError
from edgeq.graph.fold_shapes import Values, evaluate_small, fold_shapes
from edgeq.graph.structure import subgraphs, walk_graphs
from edgeq.graph.view import GraphView, attribute, node_id, unique_name


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
        value = evaluate_small(view, node.input[0], known)
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
