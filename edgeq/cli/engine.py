"""`edgeq engine`: from a Q/DQ file to an engine, on the target itself."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgeq.cli import options
from edgeq.cli.output import print_json
from edgeq.core.errors import InputError

if TYPE_CHECKING:  # numpy comes with it, and `--help` needs none
    from deploy.board.request import HardwareLevel
    from deploy.engine.record import EngineResult
    from deploy.engine.request import ShapeRange

ENGINE = "engine.plan"
_SIZES = r"\d+(?:x\d+)*"
_RANGE = re.compile(rf"(?:(?P<name>.+):)?(?P<min>{_SIZES}):(?P<opt>{_SIZES}):(?P<max>{_SIZES})")


def engine(
    context: typer.Context,
    model: Annotated[
        Path, typer.Argument(metavar="MODEL.qdq.onnx", help="A Q/DQ file made for the target.")
    ],
    target: options.Target,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help=f"The engine; {ENGINE} beside MODEL if not given."),
    ] = None,
    timing_cache: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="What TensorRT measured; read, and written after the build."
        ),
    ] = None,
    workspace_mb: Annotated[
        int, typer.Option(min=1, help="Memory that the kernels may use, in MiB.")
    ] = 512,
    shape: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[NAME:]MIN:OPT:MAX",
            help="Shapes of a dynamic input, e.g. 1x3x32x32:8x3x32x32:16x3x32x32; repeatable.",
        ),
    ] = None,
    version_compatible: Annotated[
        bool,
        typer.Option("--version-compatible", help="Newer TensorRT of the same major may load it."),
    ] = False,
    hardware_compatible: Annotated[
        str,
        typer.Option(
            metavar="none|ampere+|sameComputeCapability", help="Other GPUs that may run it."
        ),
    ] = "none",
    dla_core: Annotated[
        int | None, typer.Option(min=0, help="Run on this core of DLA, on the GPU what it cannot.")
    ] = None,
    calibration_cache: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The calibration.cache of a build with --dla."),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the engine if it is there.")
    ] = False,
    as_json: options.Json = False,
) -> None:
    """Build a TensorRT engine on this machine. Tells what runs in INT8."""
    from deploy.cards import load_card
    from deploy.engine.build import build_engine
    from deploy.engine.request import EngineSpec
    from edgeq.cli.progress import make_progress

    path = options.choose_path_beside(model, ENGINE) if out is None else out
    options.say_defaults(context, out=path)
    if path.exists() and not overwrite:
        raise InputError(
            "the output is already there",
            why="edgeq does not replace a file unasked",
            mend="choose another --out, or pass --overwrite",
            path=path,
        )
    spec = EngineSpec(
        workspace_mib=workspace_mb,
        shapes=read_ranges(shape or ()),
        is_version_compatible=version_compatible,
        hardware=read_level(hardware_compatible),
        dla_core=dla_core,
    )
    with make_progress() as progress:
        done = build_engine(
            model,
            load_card(target),
            out=path,
            spec=spec,
            timing_cache=timing_cache,
            calibration_cache=calibration_cache,
            progress=progress,
        )
    if as_json:
        print_json(done.to_dict())
        return
    _print(done)


def read_ranges(texts: Sequence[str]) -> tuple[ShapeRange, ...]:
    """Return the ranges of `--shape`; a name may hold colons, as some exporters write it."""
    from deploy.engine.request import ShapeRange

    ranges = []
    for text in texts:
        match = _RANGE.fullmatch(text)
        if match is None:
            raise InputError(
                f"--shape '{text}' is not understood",
                why="a range is [NAME:]MIN:OPT:MAX, each SIZExSIZE...",
                mend="pass for instance --shape input:1x3x224x224:8x3x224x224:16x3x224x224",
            )
        low, best, high = (
            tuple(int(size) for size in match[key].split("x")) for key in ("min", "opt", "max")
        )
        ranges.append(ShapeRange(input=match["name"] or "", min=low, opt=best, max=high))
    return tuple(ranges)


def read_level(text: str) -> HardwareLevel:
    """Return the level that `--hardware-compatible` names."""
    from deploy.board.request import HardwareLevel

    words = [level.value for level in HardwareLevel]
    return HardwareLevel(options.read_choice("--hardware-compatible", text, words))


def _print(done: EngineResult) -> None:
    meant = len(done.int8.int8) + len(done.int8.missed) + len(done.int8.unknown)
    typer.echo(
        f"{done.path}: {done.size_bytes / 1e6:.1f} MB, TensorRT {done.tensorrt_version} on {done.device.name}, "
        f"built in {done.seconds:.0f} s"
    )
    typer.echo(
        f"INT8: {len(done.int8.int8)} of {meant} layers that were meant to; {len(done.int8.missed)} do not, "
        f"{len(done.int8.unknown)} not told"
    )
    typer.echo(
        f"layers: {done.int8.layers}, of them {done.int8.reformats} reformats and {done.int8.standalone} lone Q/DQ"
    )
    typer.echo(f"record: {done.record}")
