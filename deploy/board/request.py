"""What the builder is asked: plain values, so that a bundle can carry them as JSON."""

import enum
from pathlib import Path
from typing import Any, NamedTuple, Optional, Tuple

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


def read_shapes(items: Any) -> Tuple[InputShapes, ...]:
    """Return the shapes that the JSON of a bundle holds."""
    return tuple(
        InputShapes(item["input"], *(tuple(item[key]) for key in ("min", "opt", "max")))
        for item in items
    )
