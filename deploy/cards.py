"""Target cards: the facts on each chip and its runtime, kept as data in `targets/*.toml`.

A file is named after its target, with '_' in place of '@', which some shells and tools read as a host.
"""

from __future__ import annotations

import enum
import sys
from pathlib import Path

from edgeq.core.errors import TargetError, describe_choices
from edgeq.core.specs import NumberFormat, TargetCard

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_FOLDER = Path(__file__).parent / "targets"


class Capability(enum.Enum):
    """What one may wish of a target; a number format goes by its own name."""

    INT8 = "int8"
    FP8 = "fp8"
    NVFP4 = "nvfp4"
    INT4_WEIGHTS = "int4-weights"
    INT4_CONVOLUTIONS = "int4-convolutions"
    DLA = "dla"


_WHY = {
    Capability.INT8: "its runtime builds FP32 and FP16 engines only, so a Q/DQ model would not run there",
    Capability.FP8: "FP8 needs compute capability 8.9 or newer",
    Capability.NVFP4: "FP4 needs compute capability 10.0 or newer and TensorRT 10.8",
    Capability.INT4_WEIGHTS: "INT4 weights need TensorRT 10, and compute capability 8.0 to be known to run",
    Capability.INT4_CONVOLUTIONS: "no TensorRT has INT4 convolutions: INT4 is for the weights of MatMul and Gemm",
}
_TITLES = {
    Capability.INT8: "INT8 arithmetic",
    Capability.FP8: "FP8 arithmetic",
    Capability.NVFP4: "FP4 arithmetic",
    Capability.INT4_WEIGHTS: "INT4 weights",
    Capability.INT4_CONVOLUTIONS: "INT4 convolutions",
    Capability.DLA: "DLA",
}


def card_names() -> tuple[str, ...]:
    """Return the names of all targets, in alphabetical order."""
    return tuple(sorted(path.stem.replace("_", "@") for path in _FOLDER.glob("*.toml")))


def load_card(name: str) -> TargetCard:
    """Return the card of the target `name`.

    Raises:
        TargetError: if there is no such target; the nearest names are offered.
    """
    if name not in card_names():
        raise TargetError(
            f"unknown target '{name}'",
            why="edgeq has no card with the facts on that target",
            mend=describe_choices(name, card_names()),
        )
    data = tomllib.loads((_FOLDER / f"{name.replace('@', '_')}.toml").read_text("utf-8"))
    return TargetCard.from_dict({"name": name, **data})


def has_capability(card: TargetCard, wish: Capability) -> bool:
    """Return true if the target can do `wish`."""
    if wish is Capability.INT4_CONVOLUTIONS:
        return False
    if wish is Capability.DLA:
        return card.dla_cores > 0
    return NumberFormat(wish.value) in card.formats


def require_capability(card: TargetCard, wish: Capability) -> None:
    """Do nothing if the target can do `wish`.

    Raises:
        TargetError: if it cannot, with the reason, what it can do instead, and the nearest target that can.
    """
    if has_capability(card, wish):
        return
    raise TargetError(
        f"the target '{card.name}' ({card.title}) has no {_TITLES[wish]}",
        why=card.dla.removeprefix("none: ") if wish is Capability.DLA else _WHY[wish],
        mend=f"{_describe_instead(card, wish)}; {_describe_nearest(card, wish)}",
    )


def nearest_target(card: TargetCard, wish: Capability) -> TargetCard | None:
    """Return the target most like `card` that can do `wish`, or None if there is none.

    Most like: of the same family of boards, then the nearest compute capability, then the nearest memory.
    """
    if not card.compute_capability:
        return None
    able = [
        other
        for other in map(load_card, card_names())
        if other.compute_capability and has_capability(other, wish)
    ]
    return min(able, key=lambda other: _distance(card, other), default=None)


def _distance(card: TargetCard, other: TargetCard) -> tuple[bool, float, float, str]:
    return (
        card.name.split("-")[0] != other.name.split("-")[0],
        abs(float(card.compute_capability) - float(other.compute_capability)),
        abs(card.memory_gb - other.memory_gb),
        other.name,
    )


def _describe_instead(card: TargetCard, wish: Capability) -> str:
    """Return the nearest thing that the target itself can do."""
    if wish is Capability.DLA:
        return f"the GPU runs the model in {'INT8' if card.has_int8 else 'FP16'}"
    if not card.has_int8:
        return "the float model runs there in FP16: trtexec --onnx=model.onnx --fp16"
    if wish in {Capability.INT4_CONVOLUTIONS, Capability.INT4_WEIGHTS}:
        return "4-bit grids run there in INT8: --bits w4a8"
    return "it runs INT8: --bits w8a8"


def _describe_nearest(card: TargetCard, wish: Capability) -> str:
    nearest = nearest_target(card, wish)
    if nearest is None:
        return "no other target of this kind can either"
    return f"the nearest target that can is --target {nearest.name}"
