"""What the builder is asked: plain values, so that a bundle can carry them as JSON."""

import enum
from pathlib import Path
from typing import Any, Mapping, NamedTuple, Optional, Tuple

from deploy.board.inspector import MeantNode

Shape = Tuple[int, ...]
# Enough for CNNs, and little beside the shared memory of the smallest module (deployment/tensorrt.md 4.1).
WORKSPACE_MIB = 512


class HardwareLevel(enum.Enum):
    """On which other GPUs an engine may run; the words are those of trtexec."""

    NONE = "none"
    AMPERE_PLUS = "ampere+"
    SAME_COMPUTE_CAPABILITY = "sameComputeCapability"


class BuildRequest(NamedTuple):
    """One engine.

    Attributes:
        model: the Q/DQ file.
        names: of all its nodes, in order, as TensorRT calls them.
        meant: nodes meant to run in INT8.
        is_weak: whether precision flags choose the types of what is not quantized.
        workspace_mib: memory that its kernels may use.
        timing_cache: read if it is there, written after the build; None for none.
        is_version_compatible: whether newer runtimes of the same major version may load it.
        hardware: on which other GPUs it may run.
        dla_core: of DLA; None for the GPU alone.
        calibration_cache: the ranges that DLA needs.
    """

    model: Path
    names: Tuple[str, ...]
    meant: Tuple[MeantNode, ...]
    is_weak: bool
    workspace_mib: int = WORKSPACE_MIB
    timing_cache: Optional[Path] = None
    is_version_compatible: bool = False
    hardware: HardwareLevel = HardwareLevel.NONE
    dla_core: Optional[int] = None
    calibration_cache: Optional[Path] = None

    @property
    def is_portable(self) -> bool:
        """Return whether the engine is to run under another TensorRT or on another GPU."""
        return self.is_version_compatible or self.hardware is not HardwareLevel.NONE


class InputShapes(NamedTuple):
    """The shapes that an engine accepts at one dynamic input, and the one it is tuned for; whole, batch included."""

    input: str
    min: Shape
    opt: Shape
    max: Shape


def read_shapes(items: Any, *, dla_core: Optional[int] = None) -> Tuple[InputShapes, ...]:
    """Return the shapes that the JSON of a bundle holds; for DLA, which takes one shape, the least."""
    keys = ("min", "opt", "max") if dla_core is None else ("min", "min", "min")
    return tuple(InputShapes(item["input"], *(tuple(item[key]) for key in keys)) for item in items)


def read_request(
    folder: Path,
    engine: Mapping[str, Any],
    *,
    model: Path,
    timing_cache: Path,
    dla_core: Optional[int] = None,
) -> BuildRequest:
    """Return what the JSON of a bundle asks of the builder; for DLA, its own model and calibration cache."""
    request = BuildRequest(
        model=model,
        names=tuple(engine["names"]),
        meant=tuple(MeantNode(*item) for item in engine["meant"]),
        is_weak=engine["is_weak"],
        workspace_mib=engine["workspace_mib"],
        timing_cache=timing_cache,
    )
    if dla_core is None:
        return request
    dla = engine["dla"]
    return request._replace(
        model=folder / dla["model"],
        names=tuple(dla["names"]),
        meant=(),
        dla_core=dla_core,
        calibration_cache=folder / dla["cache"],
    )
