"""Whether axis 0 of the inputs is a batch, or the file takes one sample at a time and has no such axis.

Entry: `lacks_batch_axis`. The file does not say it, but it shows where the network makes a batch axis of its own.
"""

from __future__ import annotations

import numpy as np
import onnx

from edgeq.graph.view import GraphView, attribute

# What stands between an input and the first layer of a network: preprocessing, value by value, and changes of layout.
_ON_THE_WAY = {"Add", "Cast", "Clip", "Div", "Identity", "Mul", "Neg", "Sub", "Transpose"}


def lacks_batch_axis(view: GraphView, name: str) -> bool:
    """Return true if the input `name` is one sample without a batch axis.

    1. It has fewer than two axes.
    2. Every way from it comes, through value by value preprocessing and Transpose, to a node that puts a new axis in
       front: an Unsqueeze of axis 0, or a Reshape to a constant [1, ...] of more axes, of data whose axis 0 is not 1.
    3. Left alone: everything else, where axis 0 is the batch.
    """
    shape = view.shape(name)
    return (shape is not None and len(shape) < 2) or _gets_axis(view, name)


def _gets_axis(view: GraphView, name: str) -> bool:
    waiting, seen = [name], {name}
    has_reader = False
    while waiting:
        tensor = waiting.pop()
        readers = [node for node, _ in view.consumers(tensor)]
        if tensor in view.outputs or not readers:
            return False
        for node in readers:
            if _adds_axis(view, node, tensor):
                has_reader = True
            elif node.op_type not in _ON_THE_WAY:
                return False
            elif node.output[0] not in seen:
                seen.add(node.output[0])
                waiting.append(node.output[0])
    return has_reader


def _adds_axis(view: GraphView, node: onnx.NodeProto, tensor: str) -> bool:
    """Return true if `node` puts a new axis of size 1 in front of `tensor`."""
    if node.op_type == "Unsqueeze":
        axes = attribute(node, "axes") if len(node.input) < 2 else view.constant(node.input[1])
        return axes is not None and 0 in np.ravel(np.asarray(axes)).tolist()
    if node.op_type != "Reshape" or len(node.input) < 2:
        return False
    before, after = view.shape(tensor), view.constant(node.input[1])
    if not before or after is None or before[0] in (None, 1):
        return False
    sizes = np.ravel(after).tolist()
    return len(sizes) > len(before) and sizes[0] == 1
