"""Bring a model to another opset with ONNX's converter, and put back what it loses. Entry: `convert_opset`."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import version_converter

from edgeq.core.errors import ModelError
from edgeq.graph.view import GraphView, attribute, node_id

# Why a model below opset 13 is raised.
WHY_QDQ = "per-channel Q/DQ came with opset 13"

# Resize says since then where its positions lie.
_RESIZE_OPSET = 11


def convert_opset(model: onnx.ModelProto, version: int, *, why: str = WHY_QDQ) -> onnx.ModelProto:
    """Return `model` at opset `version`, with all that ONNX's converter forgets put back.

    Args:
        model: not changed.
        version: a higher or lower one.
        why: what needs that version, for the message.

    Raises:
        ModelError: if the converter cannot, or an old Resize has no equal form.
    """
    try:
        raised = _convert(model, version)
    except (version_converter.ConvertError, RuntimeError, ValueError) as error:
        raise ModelError(
            f"the model's opset cannot be raised to {version}: {error}",
            why=why,
            mend=f"export the model again with opset {version} or newer",
        ) from error
    kept = onnx.ModelProto()
    kept.CopyFrom(model)
    kept.graph.CopyFrom(raised.graph)
    _restore_resizes(kept.graph, model)
    kept.graph.doc_string = model.graph.doc_string
    del kept.opset_import[:]
    kept.opset_import.extend(raised.opset_import)
    kept.ir_version = model.ir_version
    return kept


def _convert(model: onnx.ModelProto, version: int) -> onnx.ModelProto:
    """Return what ONNX's converter makes of `model`, with each Hardmax given to it as a Softmax.

    Both changed alike with opset 13, and it knows that of Softmax alone. It keeps the order of nodes.
    """
    kinds = [node.op_type for node in model.graph.node if node.op_type in {"Hardmax", "Softmax"}]
    if "Hardmax" not in kinds:
        return version_converter.convert_version(model, version)
    hidden = onnx.ModelProto()
    hidden.CopyFrom(model)
    for node in hidden.graph.node:
        node.op_type = "Softmax" if node.op_type == "Hardmax" else node.op_type
    raised = version_converter.convert_version(hidden, version)
    softmaxes = [node for node in raised.graph.node if node.op_type == "Softmax"]
    for node, kind in zip(softmaxes, kinds, strict=True):
        node.op_type = kind
    return raised


def _restore_resizes(graph: onnx.GraphProto, before: onnx.ModelProto) -> None:
    """Give each Resize that was an Upsample, or a Resize of opset 10, its names and its meaning again, in place.

    The converter keeps their order, but neither the name of what an Upsample makes nor where its positions lie: out /
    scale, rounded down where an axis grows and up where it shrinks (`teacher.resize`).

    Raises:
        ModelError: if a Resize to the nearest value would have to round up and down.
    """
    view = GraphView(before)
    old = [node for node in view.nodes if node.op_type in {"Resize", "Upsample"}]
    if view.opset >= _RESIZE_OPSET or not old:
        return
    new = [node for node in graph.node if node.op_type == "Resize"]
    names = {}
    for node, origin in zip(new, old, strict=True):
        node.name = origin.name
        names[node.output[0]] = origin.output[0]
        meaning = {
            "coordinate_transformation_mode": "asymmetric",
            "nearest_mode": _rounding(view, origin),
        }
        kept = [item for item in node.attribute if item.name == "mode"]
        del node.attribute[:]
        node.attribute.extend(kept)
        node.attribute.extend(onnx.helper.make_attribute(*item) for item in meaning.items())
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    for item in graph.value_info:
        item.name = names.get(item.name, item.name)


def _rounding(view: GraphView, node: onnx.NodeProto) -> str:
    """Return the nearest_mode of an old Resize; one to every n-th value need not round.

    An Upsample of before opset 9 has its scales as an attribute; none of them shrinks.
    """
    scales = view.constant(node.input[1]) if len(node.input) > 1 else None
    if scales is None or attribute(node, "mode", b"nearest") != b"nearest":
        return "floor"
    factors = np.ravel(scales).astype(np.float64)
    shrinks = (factors < 1) & (np.rint(1 / factors) != 1 / factors)
    if not shrinks.any():
        return "floor"
    if (factors > 1).any():
        raise ModelError(
            f"{node.op_type} '{node_id(node)}' has the scales {factors.tolist()}, which opset 11 cannot say",
            why="before it, the nearest value was rounded down where an axis grows and up where it shrinks",
            mend="export the model again with opset 11 or newer",
            node=node_id(node),
        )
    return "ceil"
