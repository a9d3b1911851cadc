"""Axes of a reduction that static shapes decide become constants.

Entry: `store_axes`. Exporters compute them from the rank (`Range(1, Size(Shape(x)))`); runtimes want them written down.
Axes that follow from constants alone are the plainest case of it.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper, numpy_helper

from edgeq.graph.fold_shapes import Values, evaluate_small, fold_shapes, infer_for_any_batch
from edgeq.graph.structure import names_read_inside
from edgeq.graph.unread import remove_dead
from edgeq.graph.view import GraphView, unique_name


def store_axes(inferred: onnx.ModelProto, model: onnx.ModelProto) -> onnx.ModelProto:
    """Return `model` with a constant in place of axes that follow from shapes; the same object if there are none.

    They may not depend on the batch size. The nodes that computed them go if nothing else reads them.

    Args:
        inferred: `model` with inferred shapes.
        model: not changed.
    """
    view = GraphView(inferred)
    readers = [
        node
        for node in view.nodes
        if node.op_type.startswith("Reduce")
        and len(node.input) > 1
        and node.input[1]
        and view.constant_root(node.input[1]) is None
    ]
    if not readers:
        return model
    freed = GraphView(infer_for_any_batch(view))
    known = fold_shapes(freed.model)
    found = {node.input[1]: evaluate_small(freed, node.input[1], known) for node in readers}
    values = {name: value for name, value in found.items() if value is not None}
    return _write(model, view, values) if values else model


def _write(model: onnx.ModelProto, view: GraphView, values: Values) -> onnx.ModelProto:
    """Return `model` with the reductions reading Constant nodes of `values`, named by what they read."""
    used = view.names() | names_read_inside(model.graph)
    names = {name: unique_name(f"{name}/axes", used) for name in values}
    result = onnx.ModelProto()
    result.CopyFrom(model)
    del result.graph.node[:]
    for name, value in values.items():
        tensor = numpy_helper.from_array(np.asarray(value, np.int64), names[name])
        result.graph.node.append(helper.make_node("Constant", [], [names[name]], value=tensor))
    for node in model.graph.node:
        copy = result.graph.node.add()
        copy.CopyFrom(node)
        if node.op_type.startswith("Reduce") and len(node.input) > 1 and node.input[1] in names:
            copy.input[1] = names[node.input[1]]
    remove_dead(result.graph, set(values))
    return result
