"""Builds an engine from a Q/DQ file on the machine that will run it, and says what really runs in INT8.

Main entry: `build_engine`. The order matters: the driver is asked first, then the target card is compared with what is
there, and only then does `deploy.board.builder` make a TensorRT object.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from deploy.board.builder import run_builder
from deploy.board.driver import Device, probe_driver
from deploy.board.inspector import Int8Report, judge_int8, read_layers
from deploy.board.releases import SUPPORTED, choose_dialect
from deploy.board.request import BuildRequest
from deploy.board.target import how_to_install, require_target
from deploy.calibration_cache import load_cache
from deploy.cards import Capability, require_capability
from deploy.engine.model_facts import read_facts
from deploy.engine.record import EngineResult, write_engine
from deploy.engine.request import EngineSpec, fit_shapes
from deploy.trtexec import tensorrt_version
from edgeq.core.errors import InputError, TargetError
from edgeq.core.files import FilePath, require_writable
from edgeq.core.optional import require
from edgeq.core.progress import NoProgress, Progress
from edgeq.core.specs import TargetCard

_log = logging.getLogger(__name__)


def build_engine(
    model: FilePath,
    card: TargetCard,
    *,
    out: FilePath,
    spec: EngineSpec | None = None,
    timing_cache: FilePath | None = None,
    calibration_cache: FilePath | None = None,
    progress: Progress | None = None,
    probe: Callable[[], Device] = probe_driver,
) -> EngineResult:
    """Build an engine and write it to `out` with its record and its layers beside it.

    Args:
        model: a Q/DQ file made for `card`.
        card: the target; it must be this machine.
        out: the engine.
        spec: how to build it.
        timing_cache: read if it is there, written after the build.
        calibration_cache: the ranges of a model without Q/DQ nodes, for DLA.
        progress: who hears of it.
        probe: finds the GPU.

    Raises:
        DeviceError: if there is no GPU or no driver, or TensorRT does not start on it.
        MissingDependencyError: if TensorRT is not installed.
        TargetError: if this machine is not the target, or cannot do what was asked.
        ModelError: if TensorRT cannot parse the file; every error has its node.
        InputError: if shapes or timing cache do not fit, or nothing can be written.
        BuildError: if TensorRT builds nothing.
    """
    spec, progress = spec or EngineSpec(), progress or NoProgress()
    model, out = Path(model), Path(out)
    timing_cache = None if timing_cache is None else Path(timing_cache)
    calibration_cache = None if calibration_cache is None else Path(calibration_cache)
    tensorrt_version(card)
    require_capability(card, Capability.INT8)
    _require_dla(card, spec, calibration_cache)
    facts = read_facts(model)
    device = probe()
    trt = require(
        "tensorrt",
        SUPPORTED,
        why="to build an engine",
        install=how_to_install(card.stack, card.runtime_version),
    )
    require_target(
        card.name,
        device,
        str(trt.__version__),
        wanted_version=card.runtime_version,
        wanted_capability=card.compute_capability,
    )
    request = BuildRequest(
        model=model,
        names=facts.names,
        meant=facts.meant,
        is_weak=card.weak_typing and facts.flavour != "fp16-typed",
        workspace_mib=spec.workspace_mib,
        timing_cache=timing_cache,
        is_version_compatible=spec.is_version_compatible,
        hardware=spec.hardware,
        dla_core=spec.dla_core,
        calibration_cache=calibration_cache,
    )
    require_writable(out)  # building takes minutes, and an engine that cannot be written is lost
    built = run_builder(
        trt,
        choose_dialect(trt),
        request,
        fit=lambda inputs: fit_shapes(inputs, spec.shapes),
        progress=progress,
    )
    int8 = judge_int8(read_layers(built.layers), facts.meant)
    _warn(int8)
    return write_engine(
        out, built, model=model, facts=facts, card=card, spec=spec, device=device, int8=int8
    )


def _require_dla(card: TargetCard, spec: EngineSpec, cache: Path | None) -> None:
    """Check that DLA is there and has its ranges, where it is asked for."""
    if spec.dla_core is None and cache is None:
        return
    require_capability(card, Capability.DLA)
    if spec.dla_core is None or cache is None:
        raise InputError(
            "--dla-core and --calibration-cache belong together",
            why="DLA takes its ranges from the cache, and the GPU takes them from Q/DQ nodes",
            mend="pass both with the model.dla.onnx of a build with --dla, or neither with a Q/DQ model",
        )
    if spec.dla_core >= card.dla_cores:
        raise TargetError(
            f"there is no DLA core {spec.dla_core} on {card.title}",
            why=f"it has {card.dla_cores}, and counting starts at 0",
            mend="pass for instance --dla-core 0",
        )
    load_cache(cache)


def _warn(int8: Int8Report) -> None:
    for line in int8.missed:
        _log.warning("meant to run in INT8 and does not: %s", line)
    for line in int8.unknown:
        _log.warning("meant to run in INT8, and the engine does not tell whether it does: %s", line)
