"""Builds an engine from a Q/DQ file on the machine that will run it, and says what really runs in INT8.

Main entry: `build_engine`. The order matters: the driver is asked first, then the target card is compared with what is
there, and only then is a TensorRT object made. Sequence: deployment/tensorrt.md 4.1.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deploy.engine.dialect import Dialect, choose_dialect
from deploy.engine.driver import Device, probe_driver
from deploy.engine.inspector import Int8Report, judge_int8, read_layers
from deploy.engine.messages import failed_build, make_logger, read_faults, refused_model
from deploy.engine.model_facts import ModelFacts, read_facts
from deploy.engine.portable import (
    keep_out_plugins,
    make_portable,
    require_portability,
    trust_engine,
)
from deploy.engine.record import BuiltEngine, EngineResult, write_engine
from deploy.engine.request import EngineSpec, Shape, ShapeRange, fit_shapes
from deploy.engine.timing_cache import load_timing_cache, save_timing_cache
from deploy.trtexec import tensorrt_version
from edgeq.core.errors import DeviceError, TargetError
from edgeq.core.optional import require, version_numbers
from edgeq.core.progress import NoProgress, Progress
from edgeq.core.specs import TargetCard

if TYPE_CHECKING:
    import tensorrt

SUPPORTED = ">=8.5,<12"
_log = logging.getLogger(__name__)


def build_engine(
    model: Path,
    card: TargetCard,
    *,
    out: Path,
    spec: EngineSpec | None = None,
    timing_cache: Path | None = None,
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
    _require_int8(card)
    facts = read_facts(model)
    device = probe()
    trt = require("tensorrt", SUPPORTED, why="to build an engine", install=_install(card))
    _require_target(card, device, str(trt.__version__))
    job = _Job(
        trt=trt,
        dialect=choose_dialect(trt),
        model=model,
        facts=facts,
        spec=spec,
        is_weak=card.weak_typing,
        timing_cache=timing_cache,
    )
    built = _build(job, progress)
    int8 = judge_int8(read_layers(built.layers), facts.meant)
    _warn(int8)
    return write_engine(
        out, built, model=model, facts=facts, card=card, spec=spec, device=device, int8=int8
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Job:
    """One build: what is built, how, and by which TensorRT."""

    trt: Any
    dialect: Dialect
    model: Path
    facts: ModelFacts
    spec: EngineSpec
    is_weak: bool
    timing_cache: Path | None


def _require_int8(card: TargetCard) -> None:
    tensorrt_version(card)
    if not card.has_int8:
        raise TargetError(
            f"{card.title} has no INT8 arithmetic",
            why="a Q/DQ model cannot become an engine there",
            mend="choose another target: `edgeq targets` lists them",
        )


def _install(card: TargetCard) -> str:
    if "JetPack" in card.stack:
        return (
            "sudo apt-get install python3-libnvinfer  (it comes with JetPack; a virtual environment sees it "
            "with --system-site-packages)"
        )
    major, minor = tensorrt_version(card)[:2]
    return f"pip install 'tensorrt=={major}.{minor}.*'"


def _require_target(card: TargetCard, device: Device, version: str) -> None:
    """Check that this machine is the target; all that differs is said at once."""
    found = []
    if version_numbers(version)[:2] != tensorrt_version(card)[:2]:
        found.append(f"TensorRT is {version}, the card has {card.runtime_version}")
    if card.compute_capability not in ("", device.compute_capability):
        found.append(
            f"{device.name} has compute capability {device.compute_capability}, "
            f"the card has {card.compute_capability}"
        )
    if found:
        raise TargetError(
            f"this machine is not {card.name}: {'; '.join(found)}",
            why="an engine runs on the GPU and the TensorRT that built it, and the Q/DQ model has its parser's form",
            mend="pass the --target that this machine is (`edgeq targets`), with a model built for it",
        )


def _build(job: _Job, progress: Progress) -> BuiltEngine:
    """Run TensorRT from the file to the engine in memory."""
    trt = job.trt
    require_portability(trt, job.dialect, job.spec)
    logger = make_logger(trt)
    logger.errors.clear()
    builder = _start(trt)
    network = builder.create_network(job.dialect.network_flags(is_weak=job.is_weak))
    parser = trt.OnnxParser(network, logger)
    if job.spec.is_portable:
        keep_out_plugins(trt, parser)
    # From the file, not from memory: weights may lie beside it.
    if not parser.parse_from_file(str(job.model)):
        faults = read_faults(parser, job.dialect, job.facts.names)
        raise refused_model(job.model, faults, version=trt.__version__, errors=logger.errors)
    ranges = fit_shapes(_input_shapes(network), job.spec.shapes)
    config = builder.create_builder_config()
    flags = _configure(job, config)
    _add_profile(builder, config, ranges)
    load_timing_cache(config, job.timing_cache)
    started = time.monotonic()
    plan = _run(job, builder, network, config, progress)
    seconds = time.monotonic() - started
    if plan is None:
        raise failed_build("TensorRT built no engine", errors=logger.errors)
    data = bytes(plan)
    digest = save_timing_cache(config, job.timing_cache)
    return BuiltEngine(
        plan=data,
        layers=_inspect(job, data, ranges),
        flags=flags,
        timing_cache_sha256=digest,
        seconds=seconds,
        version=str(trt.__version__),
    )


def _start(trt: Any) -> tensorrt.Builder:
    """Return a builder, with the plugins at hand.

    Raises:
        DeviceError: if TensorRT does not start, for instance because the driver is too old for its CUDA.
    """
    logger = make_logger(trt)
    try:
        builder = trt.Builder(logger)
    except (
        TypeError
    ) as error:  # what the bindings raise for a null pointer (deployment/tensorrt.md 1.5)
        reasons = "; ".join(logger.errors) or str(error)
        raise DeviceError(
            f"TensorRT {trt.__version__} does not start: {reasons}",
            why="the driver shows a GPU, but this TensorRT cannot use it",
            mend="compare the CUDA version of `nvidia-smi` with that of the TensorRT package",
        ) from error
    if not trt.init_libnvinfer_plugins(logger, ""):
        raise failed_build("TensorRT's plugins cannot be loaded", errors=logger.errors)
    return builder


def _input_shapes(network: tensorrt.INetworkDefinition) -> dict[str, Shape]:
    return dict(_describe(network.get_input(index)) for index in range(network.num_inputs))


def _describe(tensor: tensorrt.ITensor) -> tuple[str, Shape]:
    return str(tensor.name), tuple(int(size) for size in tensor.shape)


def _configure(job: _Job, config: tensorrt.IBuilderConfig) -> tuple[str, ...]:
    """Set memory, verbosity and flags; return the names of the flags."""
    trt, spec = job.trt, job.spec
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, spec.workspace_mib << 20)
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # the inspector needs it
    flags = job.dialect.set_precision(config, is_weak=job.is_weak)
    if spec.is_portable:
        flags = (*flags, *make_portable(trt, config, spec))
    return flags


def _add_profile(
    builder: tensorrt.Builder, config: tensorrt.IBuilderConfig, ranges: tuple[ShapeRange, ...]
) -> None:
    if not ranges:
        return
    profile = builder.create_optimization_profile()
    for item in ranges:
        profile.set_shape(item.input, item.min, item.opt, item.max)
    if config.add_optimization_profile(profile) < 0:
        raise failed_build("TensorRT refuses the ranges of shapes", errors=())


def _run(
    job: _Job,
    builder: tensorrt.Builder,
    network: tensorrt.INetworkDefinition,
    config: tensorrt.IBuilderConfig,
    progress: Progress,
) -> tensorrt.IHostMemory | None:
    """Return the engine, or None; an error in a progress callback is raised here."""
    tracker = job.dialect.watch_build(config, progress)
    if tracker is None:
        progress.start("engine", 1, "engine")
        plan = builder.build_serialized_network(network, config)
        progress.advance()
        progress.finish("built" if plan is not None else "failed")
        return plan
    plan = builder.build_serialized_network(network, config)
    if tracker.error is not None:
        raise tracker.error
    return plan


def _inspect(job: _Job, plan: bytes, ranges: tuple[ShapeRange, ...]) -> str:
    """Return the inspector's JSON on an engine."""
    trt, logger = job.trt, make_logger(job.trt)
    runtime = trt.Runtime(logger)
    if job.spec.is_version_compatible:
        trust_engine(runtime)
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        raise failed_build("TensorRT cannot load the engine that it built", errors=logger.errors)
    inspector = engine.create_engine_inspector()
    if ranges:  # without shapes a dynamic engine tells no types
        context = engine.create_execution_context()
        if context is None:
            raise failed_build("TensorRT cannot run the engine that it built", errors=logger.errors)
        for item in ranges:
            if not context.set_input_shape(item.input, item.opt):
                raise failed_build(
                    f"the engine refuses its own shape at '{item.input}'", errors=logger.errors
                )
        inspector.execution_context = context
    return str(inspector.get_engine_information(trt.LayerInformationFormat.JSON))


def _warn(int8: Int8Report) -> None:
    for line in int8.missed:
        _log.warning("meant to run in INT8 and does not: %s", line)
    for line in int8.unknown:
        _log.warning("meant to run in INT8, and the engine does not tell whether it does: %s", line)
