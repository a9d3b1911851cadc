"""One bias for all output channels of a Gemm, which ONNX allows, becomes one for each. Entry: `spread_biases`."""

from __future__ import annotations

import numpy as np
import onnx

from edgeq.graph.initializers import add_initializer
from edgeq.graph.passes import PassResult
from edgeq.graph.unread import remove_unread
from edgeq.graph.view import GraphView, attribute, unique_name


def spread_biases(model: onnx.ModelProto) -> PassResult:
    """Store the constant bias of a Gemm with constant weight as [K] where it has one element and K is larger.

    Training moves every channel's bias, INT32 biases have a scale for each channel, and both write them back under the
    name in the graph. A bias that something else reads stays, too; `model` is not modified.
    """
    view = GraphView(model)
    used = view.names()
    wide = {}
    for index, node in enumerate(model.graph.node):
        if node.op_type != "Gemm" or len(node.input) < 3:
            continue
        _, weight, bias = node.input
        value, matrix = view.constant(bias), view.constant(weight)
        if value is None or value.size != 1:
            continue
        count = 1 if matrix is None else matrix.shape[0 if attribute(node, "transB", 0) else 1]
        if count > 1:
            wide[index] = bias, unique_name(f"{bias}/spread", used), np.repeat(value, count)
    if not wide:
        return PassResult(model=model, changed=False)
    spread = onnx.ModelProto()
    spread.CopyFrom(model)
    for index, (_, name, values) in wide.items():
        spread.graph.node[index].input[2] = name
        add_initializer(spread, name, values)
    remove_unread(spread.graph, {bias for bias, _, _ in wide.values()})
    return PassResult(
        model=spread, changed=True, touched=tuple(name for _, name, _ in wide.values())
    )
