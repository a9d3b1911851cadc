"""Bring a model's opset and IR version into what Q/DQ needs and the target takes."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx
from onnx import version_converter

from edgeq.core.errors import ModelError
from edgeq.core.specs import GraphFlavour, TargetCard
from edgeq.graph.lower_opset import lower_opset
from edgeq.graph.read import LoadedModel
from edgeq.graph.view import GraphView, attribute, node_id

# Per-channel scales came with opset 13, FP16 scales with opset 19.
QDQ_OPSET = 13
HALF_OPSET = 19

# Resize says since then where its positions lie.
_RESIZE_OPSET = 11

# TensorRT that calls its precision flags deprecated, and TensorRT that has none (deployment/tensorrt.md 1.1).
_DEPRECATED = (10, 12)
_STRONG = (11,)

# Below it initializers have to be listed among the graph inputs, where a new scale would become an input of the model.
LOWEST_IR = 4


def fit_target(model: onnx.ModelProto, *, card: TargetCard) -> tuple[onnx.ModelProto, list[str]]:
    """Return a copy of `model` within the target's opset and IR limits, and one sentence a change.

    Raises:
        TargetError: if the opset is above the target's and cannot be lowered.
        ModelError: if an older opset cannot be converted.
    """
    lowered = lower_opset(model, card.opset_max, reader=_describe_parser(card))
    model, findings = lowered.model, list(lowered.findings)
    opset = GraphView(model).opset
    is_half = card.flavour is GraphFlavour.FP16_TYPED
    wanted = max(HALF_OPSET if is_half else QDQ_OPSET, card.opset_min)
    if opset < wanted:
        fitted = convert_opset(model, wanted, why=_WHY[is_half])
        findings.append(f"opset {opset} was raised to {wanted}, which {_NEEDS[is_half]} needs")
    else:
        fitted = onnx.ModelProto()
        fitted.CopyFrom(model)
    version = min(max(fitted.ir_version, LOWEST_IR), card.ir_max)
    if version != fitted.ir_version:
        findings.append(
            f"IR version {fitted.ir_version} was changed to {version} for '{card.name}'"
        )
        fitted.ir_version = version
    return fitted, findings + _describe_typing(card)


def fit_opset(loaded: LoadedModel, *, card: TargetCard, newest: int | None = None) -> LoadedModel:
    """Return `loaded` at an opset that the target's parser takes; the same object where it is at one.

    Args:
        loaded: the user's model.
        card: the target.
        newest: the opset to lower to; the card's newest if None.

    Raises:
        TargetError: if the opset is above the target's and cannot be lowered, see `lower_opset`.
    """
    version = card.opset_max if newest is None else newest
    lowered = lower_opset(loaded.model, version, reader=_describe_parser(card))
    if not lowered.changed:
        return loaded
    return dataclasses.replace(
        loaded,
        model=lowered.model,
        inferred=onnx.shape_inference.infer_shapes(lowered.model, data_prop=True),
        findings=(*loaded.findings, *lowered.findings),
    )


def _describe_parser(card: TargetCard) -> str:
    return f"'{card.name}' ({card.runtime} {card.runtime_version})"


def _describe_typing(card: TargetCard) -> list[str]:
    """Return what follows from an FP32-typed graph on a stack that is best served with an FP16-typed one."""
    if card.flavour is not GraphFlavour.FP32_TYPED or card.runtime != "tensorrt":
        return []
    version = tuple(int(part) for part in card.runtime_version.split(".")[:2])
    runtime = f"{card.runtime} {card.runtime_version}"
    if version < _DEPRECATED:
        return []
    if version < _STRONG:
        return [
            f"the graph is FP32-typed; {runtime} builds it by weak typing (--int8 --fp16), accepted but deprecated"
        ]
    return [
        f"the graph is FP32-typed, and {runtime} is strongly typed: what is not quantized runs in FP32, not FP16"
    ]


_WHY = {False: "per-channel Q/DQ came with opset 13", True: "FP16 scales came with opset 19"}
_NEEDS = {False: "per-channel Q/DQ", True: "an FP16-typed graph"}


def convert_opset(
    model: onnx.ModelProto, version: int, *, why: str = _WHY[False]
) -> onnx.ModelProto:
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
