"""Shape inference that knows the rank of a Reshape whose target shape is computed.

Entry: `infer_shapes`. ONNX's own inference leaves such an output without a rank as soon as one size is not known, and
with it all that follows; yet the length of the target shape is the rank.
"""

from __future__ import annotations

import onnx
from onnx import helper

from edgeq.graph.view import GraphView


def infer_shapes(model: onnx.ModelProto, *, strict: bool = False) -> onnx.ModelProto:
    """Return `model` with the types and shapes of its tensors, as far as they are known; it is not modified.

    Args:
        model: any model of the main domain.
        strict: raise where a node contradicts its operator, as `onnx.shape_inference.infer_shapes` does.
    """
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=strict, data_prop=True)
    while _add_ranks(inferred):
        inferred = onnx.shape_inference.infer_shapes(inferred, strict_mode=strict, data_prop=True)
    return inferred


def _add_ranks(model: onnx.ModelProto) -> bool:
    """Enter the rank of every Reshape that has none, where the length of its target is known; true if any was."""
    view = GraphView(model)
    ranks = {}
    for node in view.nodes:
        if node.op_type != "Reshape" or view.shape(node.output[0]) is not None:
            continue
        target = view.shape(node.input[1])
        if target is not None and len(target) == 1 and target[0] is not None:
            ranks[node.output[0]] = (view.element_type(node.input[0]), target[0])
    known = {item.name: item for item in (*model.graph.value_info, *model.graph.output)}
    for name, (kind, rank) in ranks.items():
        entry = helper.make_tensor_value_info(name, kind, [None] * rank)
        if name in known:
            known[name].type.CopyFrom(entry.type)
        else:
            model.graph.value_info.append(entry)
    return bool(ranks)
