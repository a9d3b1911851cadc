"""Bring a model's opset and IR version into what Q/DQ needs and the target takes."""

from __future__ import annotations

import dataclasses

import onnx

from edgeq.core.specs import GraphFlavour, TargetCard
from edgeq.graph.convert_opset import WHY_QDQ, convert_opset
from edgeq.graph.lower_opset import lower_opset
from edgeq.graph.read import LoadedModel
from edgeq.graph.view import GraphView

# Per-channel scales came with opset 13, FP16 scales with opset 19.
QDQ_OPSET = 13
HALF_OPSET = 19

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


_WHY = {False: WHY_QDQ, True: "FP16 scales came with opset 19"}
_NEEDS = {False: "per-channel Q/DQ", True: "an FP16-typed graph"}
