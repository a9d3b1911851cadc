"""The `trtexec` lines that build and time an engine, right for the TensorRT version of a target card.

TensorRT 11 has no precision flags; an FP32-typed graph needs `--int8 --fp16` in 8.x and 10.x; an FP16-typed one takes
`--stronglyTyped` alone in 10.x. Lines are lists of arguments, never shell text.
Source: deployment/tensorrt.md 4.3, 5.3.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from deploy.board.request import WORKSPACE_MIB
from deploy.cards import Capability, require_capability
from edgeq.core.errors import InputError, TargetError
from edgeq.core.serial import Spec
from edgeq.core.specs import GraphFlavour, InputSpec, TargetCard

TIMING_CACHE = "timing.cache"
LAYER_INFO = "layers.json"
TIMES = "times.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchRange(Spec):
    """Batch sizes that an engine of a dynamic model accepts, and the one it is tuned for."""

    min: int = 1
    opt: int = 1
    max: int = 16

    def __post_init__(self) -> None:
        if not 1 <= self.min <= self.opt <= self.max:
            raise InputError(
                f"batch sizes min {self.min}, opt {self.opt}, max {self.max}",
                why="an engine needs 1 <= min <= opt <= max",
                mend="pass for instance BatchRange(min=1, opt=1, max=16)",
            )


def trtexec_line(
    card: TargetCard,
    *,
    onnx_name: str,
    engine_name: str,
    inputs: Sequence[InputSpec],
    batch: BatchRange | None = None,
) -> list[str]:
    """Return the arguments, after `trtexec`, that build an engine from a Q/DQ model.

    Args:
        card: the target.
        onnx_name: file to read.
        engine_name: file to write.
        inputs: of the model; those without a fixed batch size get shape ranges.
        batch: the sizes for these; 1, 1, 16 if not given.

    Returns:
        nothing where trtexec cannot read the name of such an input; build.sh, which does without it, can.

    Raises:
        TargetError: if the target has no TensorRT or no INT8.
    """
    version = tensorrt_version(card)
    require_capability(card, Capability.INT8)
    if not _is_readable(inputs):
        return []
    line = [f"--onnx={onnx_name}", f"--saveEngine={engine_name}", *_precision(card, version)]
    line += _shape_ranges(inputs, batch or BatchRange())
    line.append(
        f"--memPoolSize=workspace:{WORKSPACE_MIB}"
        if version >= (8, 4)
        else f"--workspace={WORKSPACE_MIB}"
    )
    return [
        *line,
        f"--timingCacheFile={TIMING_CACHE}",
        "--profilingVerbosity=detailed",
        f"--exportLayerInfo={LAYER_INFO}",
        "--skipInference" if version >= (8, 6) else "--buildOnly",
    ]


def dla_line(
    card: TargetCard,
    *,
    onnx_name: str,
    engine_name: str,
    inputs: Sequence[InputSpec],
    cache_name: str,
    core: int = 0,
) -> list[str]:
    """Return the arguments, after `trtexec`, that build an engine for DLA from a model without Q/DQ nodes.

    A dynamic batch is built for batches of one: DLA takes static shapes. Nothing where `trtexec_line` gives nothing.

    Raises:
        TargetError: if the target has no DLA.
    """
    require_capability(card, Capability.DLA)
    single = BatchRange(min=1, opt=1, max=1)
    line = trtexec_line(
        card, onnx_name=onnx_name, engine_name=engine_name, inputs=inputs, batch=single
    )
    options = [f"--calib={cache_name}", f"--useDLACore={core}", "--allowGPUFallback"]
    return [*line, *options] if line else []


def timing_line(
    card: TargetCard,
    *,
    engine_name: str,
    inputs: Sequence[InputSpec],
    batch: BatchRange | None = None,
) -> list[str]:
    """Return the arguments, after `trtexec`, of the canonical timing: no transfers, spin wait, CUDA graph.

    TensorRT 11 has these three as defaults and drops their flags; 8.x takes one percentile.
    Nothing where `trtexec_line` gives nothing.

    Raises:
        TargetError: if the target has no TensorRT.
    """
    version = tensorrt_version(card)
    if not _is_readable(inputs):
        return []
    modes = ["--noDataTransfers", "--useSpinWait", "--useCudaGraph"] if version < (11,) else []
    shapes = _shapes("--shapes", inputs, (batch or BatchRange()).opt)
    percentile = "--percentile=50,90,95,99" if version >= (10,) else "--percentile=99"
    settings = ["--warmUp=500", "--duration=10", percentile, f"--exportTimes={TIMES}"]
    return [f"--loadEngine={engine_name}", *shapes, *modes, *settings]


def tensorrt_version(card: TargetCard) -> tuple[int, ...]:
    """Return the card's TensorRT version as numbers.

    Raises:
        TargetError: if its runtime is another one.
    """
    if card.runtime != "tensorrt":
        raise TargetError(
            f"{card.title} runs {card.runtime}, not TensorRT",
            why="only TensorRT builds engines",
            mend="use the Q/DQ model as it is, or choose a TensorRT target: `edgeq targets`",
        )
    return tuple(int(part) for part in card.runtime_version.split("."))


def _precision(card: TargetCard, version: tuple[int, ...]) -> list[str]:
    if version >= (11,):
        return []
    is_weak = card.weak_typing and card.flavour is not GraphFlavour.FP16_TYPED
    return ["--int8", "--fp16"] if is_weak else ["--stronglyTyped"]


def _shape_ranges(inputs: Sequence[InputSpec], batch: BatchRange) -> list[str]:
    return [
        option
        for flag, size in (
            ("--minShapes", batch.min),
            ("--optShapes", batch.opt),
            ("--maxShapes", batch.max),
        )
        for option in _shapes(flag, inputs, size)
    ]


def _is_readable(inputs: Sequence[InputSpec]) -> bool:
    """Return whether trtexec can read the name of every dynamic input: it splits its list of shapes at these two."""
    return not any(set(",'") & set(item.name) for item in inputs if item.batch is None)


def _shapes(flag: str, inputs: Sequence[InputSpec], size: int) -> list[str]:
    """Return `flag` with the shape of every dynamic input; nothing for a static model, where trtexec refuses it."""
    dynamic = [item for item in inputs if item.batch is None]
    shapes = [f"{item.name}:{'x'.join(map(str, (size, *item.shape)))}" for item in dynamic]
    return [f"{flag}={','.join(shapes)}"] if shapes else []
