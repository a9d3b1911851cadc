"""What is asked of the builder, and how the asked shapes fit the inputs of a network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from deploy.board.request import WORKSPACE_MIB, HardwareLevel, Shape
from edgeq.core.errors import InputError
from edgeq.core.serial import Spec


@dataclass(frozen=True, slots=True, kw_only=True)
class ShapeRange(Spec):
    """The shapes that an engine accepts at one dynamic input, and the one it is tuned for.

    Attributes:
        input: its name; empty for the only dynamic input.
        min, opt, max: whole shapes, batch included.
    """

    input: str = ""
    min: Shape
    opt: Shape
    max: Shape

    def __post_init__(self) -> None:
        is_ordered = len(self.min) == len(self.opt) == len(self.max) and all(
            0 < low <= best <= high
            for low, best, high in zip(self.min, self.opt, self.max, strict=True)
        )
        if not is_ordered:
            raise InputError(
                f"shapes {_text(self.min)} : {_text(self.opt)} : {_text(self.max)} of an input",
                why="all three need the same number of axes and 0 < min <= opt <= max on each",
                mend="pass for instance --shape 1x3x224x224:8x3x224x224:16x3x224x224",
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSpec(Spec):
    """How an engine is to be built.

    Attributes:
        workspace_mib: memory that its kernels may use.
        shapes: one range for every dynamic input.
        is_version_compatible: whether newer runtimes of the same major version may load it.
        hardware: on which other GPUs it may run.
        dla_core: of DLA; None for the GPU alone.
    """

    workspace_mib: int = WORKSPACE_MIB
    shapes: tuple[ShapeRange, ...] = ()
    is_version_compatible: bool = False
    hardware: HardwareLevel = HardwareLevel.NONE
    dla_core: int | None = None

    def __post_init__(self) -> None:
        if self.workspace_mib < 1:
            raise InputError(
                f"a workspace of {self.workspace_mib} MiB",
                why="kernels need some memory to work in",
                mend=f"pass for instance --workspace-mb {WORKSPACE_MIB}",
            )


def fit_shapes(inputs: Mapping[str, Shape], ranges: Sequence[ShapeRange]) -> tuple[ShapeRange, ...]:
    """Return one range for every dynamic input, with its name, in the order of the network.

    Args:
        inputs: shape of every input of the network; -1 marks a dynamic axis.
        ranges: as asked.

    Raises:
        InputError: for a dynamic input without a range, a range without a dynamic input, or one that does not fit; all
            faults at once.
    """
    dynamic = {name: shape for name, shape in inputs.items() if -1 in shape}
    if len(dynamic) == 1:
        ranges = [
            item if item.input else replace(item, input=next(iter(dynamic))) for item in ranges
        ]
    given = {item.input: item for item in ranges}
    faults = [f"input '{name}' is given twice" for name in _repeated(ranges)]
    faults += [_unwanted(name, inputs) for name in given if name not in dynamic]
    for name, shape in dynamic.items():
        if name not in given:
            faults.append(f"input '{name}' has the dynamic shape {_text(shape)} and no range")
        elif not _fits(shape, given[name].opt, given[name]):
            faults.append(
                f"input '{name}' has the shape {_text(shape)}, which the range does not fit"
            )
    if faults:
        example = _example(dynamic)
        raise InputError(
            f"the shapes do not fit the network: {'; '.join(faults)}",
            why="an engine is tuned for one range of shapes at each dynamic input, and for no other input",
            mend=f"pass {example}" if example else "leave --shape away: every input is static",
        )
    return tuple(given[name] for name in dynamic)


def _fits(shape: Shape, opt: Shape, asked: ShapeRange) -> bool:
    return len(opt) == len(shape) and all(
        axis == -1 or axis == low == high
        for axis, low, high in zip(shape, asked.min, asked.max, strict=True)
    )


def _repeated(ranges: Sequence[ShapeRange]) -> list[str]:
    names = [item.input for item in ranges]
    return sorted({name for name in names if names.count(name) > 1})


def _unwanted(name: str, inputs: Mapping[str, Shape]) -> str:
    if not name:
        return (
            f"a range names no input, and not exactly one is dynamic (inputs: {', '.join(inputs)})"
        )
    if name not in inputs:
        return f"there is no input '{name}' (inputs: {', '.join(inputs)})"
    return f"input '{name}' is static: {_text(inputs[name])}"


def _example(dynamic: Mapping[str, Shape]) -> str:
    return " ".join(
        f"--shape {name}:" + ":".join(_text(_filled(shape, size)) for size in (1, 8, 16))
        for name, shape in dynamic.items()
    )


def _filled(shape: Shape, size: int) -> Shape:
    return tuple(size if axis == -1 else axis for axis in shape)


def _text(shape: Shape) -> str:
    return "x".join("?" if size == -1 else str(size) for size in shape)
