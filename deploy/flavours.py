"""Which graph a build writes for a target: the card's own flavour, the file's types, or what was asked for."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from deploy.trtexec import tensorrt_version
from edgeq.core.errors import TargetError
from edgeq.core.specs import GraphFlavour, NumberFormat, TargetCard

# FP16 scales came with this opset, strong typing with this TensorRT (deployment/tensorrt.md 1.1, 2.6).
_HALF_OPSET = 19
_STRONG_TYPING = (10,)


def choose_flavour(
    card: TargetCard, asked: GraphFlavour | None, *, half_types: Sequence[str] = ()
) -> TargetCard:
    """Return the card with the flavour of the graph to write.

    1. What was asked for.
    2. fp16-typed for a float16 file, where the target takes it: it comes back in its own type.
    3. The card's own.

    Raises:
        TargetError: if the target cannot take what was asked for, with the reason.
    """
    wanted = asked or card.flavour
    if asked is None and "float16" in half_types and why_not_half(card) is None:
        wanted = GraphFlavour.FP16_TYPED
    if wanted is card.flavour:
        return card
    reason = why_not_half(card) if wanted is GraphFlavour.FP16_TYPED else None
    if reason is not None:
        raise TargetError(
            f"the target '{card.name}' ({card.title}) takes no {wanted.value} graph",
            why=reason,
            mend=f"leave --flavour out: it gets a graph that is {card.flavour.value}",
        )
    return dataclasses.replace(card, flavour=wanted)


def why_not_half(card: TargetCard) -> str | None:
    """Return why the target takes no FP16-typed graph with Q/DQ nodes; None if it does."""
    if card.runtime != "tensorrt":
        return f"{card.runtime} computes in FP32 on a CPU, and casts FP16 back and forth around every operator"
    if tensorrt_version(card) < _STRONG_TYPING:
        return f"strong typing came with TensorRT 10, and it has {card.runtime_version}"
    if card.opset_max < _HALF_OPSET:
        return f"FP16 scales need opset {_HALF_OPSET}, and its parser takes up to {card.opset_max}"
    if NumberFormat.FP16 not in card.formats:
        return "it has no FP16 arithmetic"
    return None
