"""From a Q/DQ file to an engine in memory, by TensorRT's Python API. Main entry: `run_builder`.

No TensorRT object may be made before `driver.probe_driver` found a GPU. Sequence: deployment/tensorrt.md 4.1.
"""

import time
from typing import TYPE_CHECKING, Any, Callable, Dict, NamedTuple, Optional, Sequence, Tuple

from deploy.board.dialect import Dialect
from deploy.board.dla import use_dla
from deploy.board.loading import Loading, prepare_runtime
from deploy.board.messages import failed_build, make_logger, read_faults, refused_model
from deploy.board.portable import keep_out_plugins, make_portable, require_portability
from deploy.board.request import BuildRequest, Shape
from deploy.board.timing_cache import load_timing_cache, save_timing_cache
from edgeq.core.errors import DeviceError
from edgeq.core.files import require_writable
from edgeq.core.progress import Progress

if TYPE_CHECKING:
    import tensorrt

# From the shape of every input (-1 marks a dynamic axis) to the range of each dynamic one: input, min, opt, max.
FitShapes = Callable[[Dict[str, Shape]], Sequence[Any]]


class BuiltEngine(NamedTuple):
    """What TensorRT made, not yet on disk.

    Attributes:
        plan: the engine.
        layers: the inspector's JSON.
        flags: names of the builder flags that were set.
        timing_cache_sha256: of the cache after the build.
        seconds: how long the build took.
        version: of TensorRT.
    """

    plan: bytes
    layers: str
    flags: Tuple[str, ...]
    timing_cache_sha256: str
    seconds: float
    version: str


def run_builder(
    trt: Any, dialect: Dialect, request: BuildRequest, *, fit: FitShapes, progress: Progress
) -> BuiltEngine:
    """Return the engine that `request` asks for.

    Args:
        trt: the `tensorrt` module.
        dialect: of its generation.
        request: what to build.
        fit: gives each dynamic input its range of shapes.
        progress: who hears of the build.

    Raises:
        DeviceError: if TensorRT does not start on this GPU.
        TargetError: if this TensorRT cannot build a portable engine that is asked for.
        ModelError: if it cannot parse the file; every error has its node.
        InputError: if shapes or timing cache do not fit, or the cache cannot be written.
        BuildError: if it builds nothing.
    """
    require_portability(trt, dialect, request)
    if request.timing_cache is not None:
        require_writable(request.timing_cache)
    logger = make_logger(trt)
    del logger.errors[:]
    builder = start_builder(trt)
    network = builder.create_network(dialect.network_flags(is_weak=request.is_weak))
    parser = trt.OnnxParser(network, logger)
    if request.is_portable:
        keep_out_plugins(trt, parser)
    # From the file, not from memory: weights may lie beside it.
    if not parser.parse_from_file(str(request.model)):
        faults = read_faults(parser, dialect, request.names)
        raise refused_model(request.model, faults, version=trt.__version__, errors=logger.errors)
    ranges = fit(_input_shapes(network))
    config = builder.create_builder_config()
    flags = _configure(trt, dialect, request, config)
    _add_profile(builder, config, ranges)
    load_timing_cache(config, request.timing_cache)
    started = time.monotonic()
    plan = _run(dialect, builder, network, config, progress)
    seconds = time.monotonic() - started
    if plan is None:
        raise failed_build("TensorRT built no engine", errors=logger.errors)
    data = bytes(plan)
    # First, so that a fault below costs less.
    digest = save_timing_cache(config, request.timing_cache)
    return BuiltEngine(
        plan=data,
        layers=_inspect(trt, data, ranges, request),
        flags=flags,
        timing_cache_sha256=digest,
        seconds=seconds,
        version=str(trt.__version__),
    )


def start_builder(trt: Any) -> "tensorrt.Builder":
    """Return a builder, with the plugins at hand.

    Raises:
        DeviceError: if TensorRT does not start, for instance because the driver is too old for its CUDA.
        BuildError: if its plugins cannot be loaded.
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


def count_dla_cores(trt: Any) -> int:
    """Return how many DLA cores TensorRT sees."""
    builder = start_builder(trt)
    return int(builder.num_DLA_cores)


def why_refused(trt: Any, dialect: Dialect, request: BuildRequest) -> str:
    """Return why the parser refuses a file; empty if it takes it."""
    logger = make_logger(trt)
    del logger.errors[:]
    builder = start_builder(trt)
    network = builder.create_network(dialect.network_flags(is_weak=request.is_weak))
    parser = trt.OnnxParser(network, logger)
    if parser.parse_from_file(str(request.model)):
        return ""
    faults = [str(item) for item in read_faults(parser, dialect, request.names)]
    return "; ".join(faults or logger.errors) or "no reason given"


def _input_shapes(network: "tensorrt.INetworkDefinition") -> Dict[str, Shape]:
    return dict(_describe(network.get_input(index)) for index in range(network.num_inputs))


def _describe(tensor: "tensorrt.ITensor") -> Tuple[str, Shape]:
    return str(tensor.name), tuple(int(size) for size in tensor.shape)


def _configure(
    trt: Any, dialect: Dialect, request: BuildRequest, config: "tensorrt.IBuilderConfig"
) -> Tuple[str, ...]:
    """Set memory, verbosity and flags; return the names of the flags."""
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, request.workspace_mib << 20)
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # the inspector needs it
    flags = dialect.set_precision(config, is_weak=request.is_weak)
    if request.is_portable:
        flags = (*flags, *make_portable(trt, config, request))
    if request.dla_core is not None and request.calibration_cache is not None:
        flags += use_dla(trt, config, core=request.dla_core, cache=request.calibration_cache)
    return flags


def _add_profile(
    builder: "tensorrt.Builder", config: "tensorrt.IBuilderConfig", ranges: Sequence[Any]
) -> None:
    if not ranges:
        return
    profile = builder.create_optimization_profile()
    for item in ranges:
        profile.set_shape(item.input, item.min, item.opt, item.max)
    if config.add_optimization_profile(profile) < 0:
        raise failed_build("TensorRT refuses the ranges of shapes", errors=())


def _run(
    dialect: Dialect,
    builder: "tensorrt.Builder",
    network: "tensorrt.INetworkDefinition",
    config: "tensorrt.IBuilderConfig",
    progress: Progress,
) -> "Optional[tensorrt.IHostMemory]":
    """Return the engine, or None; an error in a progress callback is raised here."""
    tracker = dialect.watch_build(config, progress)
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


def _inspect(trt: Any, plan: bytes, ranges: Sequence[Any], request: BuildRequest) -> str:
    """Return the inspector's JSON on an engine."""
    logger = make_logger(trt)
    runtime = trt.Runtime(logger)
    prepare_runtime(runtime, Loading(request.dla_core, request.is_version_compatible))
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
