"""Times a TensorRT engine on this machine, by the rules of trtexec. Main entry: `measure_engine`.

The loop and the statistics are those of the bundle (`deploy.board.timing`); here stand the choice of the CUDA library,
the inputs, clocks and power, and what a reader needs to compare the figure with another.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deploy.board.driver import probe_driver
from deploy.board.facts import read_facts
from deploy.board.record import read_loading
from deploy.board.releases import SUPPORTED
from deploy.board.runner import Engine
from deploy.board.timing import TimingSpec, time_engine
from deploy.cuda_backends import open_cuda
from deploy.onnxrt import ModelInput
from deploy.power import PowerMeter
from deploy.random_inputs import make_feeds, require_known_names
from deploy.trtexec_defaults import describe_defaults
from edgeq.core.errors import InputError
from edgeq.core.files import digest_file
from edgeq.core.optional import require

ENGINE_TAG = b"ftrt"  # the first bytes of an engine (deployment/tensorrt.md 4.4)


def is_engine(path: Path) -> bool:
    """Return whether the file begins as an engine does; of one that cannot be read its reader says why."""
    try:
        if not path.is_file():
            return False
        with path.open("rb") as file:
            return file.read(len(ENGINE_TAG)) == ENGINE_TAG
    except OSError:
        return False


def measure_engine(
    path: Path,
    timing: TimingSpec,
    *,
    cuda: str = "ctypes",
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    batch: int | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Return the figures of an engine, as `time_engine` has them, with what was measured where.

    Args:
        path: the engine.
        timing: how to measure.
        cuda: the library that gives access to the GPU, of `cuda_backends.BACKENDS`.
        shapes: of the inputs; a dynamic one has that for which the engine is tuned if not given.
        batch: size of a dynamic first axis; another than that of a fixed one is refused.
        seed: of the random inputs.

    Raises:
        InputError: if the file is missing or no engine, or a shape does not fit.
        DeviceError: if there is no GPU, or it fails.
        MissingDependencyError: if TensorRT or the library is not installed.
        BuildError: if TensorRT cannot load or run the engine.
    """
    if not is_engine(path):
        raise InputError(
            "no TensorRT engine",
            why='an engine begins with the bytes "ftrt"' if path.is_file() else "no such file",
            mend="build one on this machine: edgeq engine model.qdq.onnx --target NAME",
            path=path,
        )
    device = probe_driver()  # before any TensorRT object is made
    trt = require("tensorrt", SUPPORTED, why="to run an engine", install="pip install tensorrt")
    loading = read_loading(path)
    with open_cuda(cuda, is_spinning=timing.is_spinning) as access:
        is_managed = access.is_integrated and not timing.has_transfers
        engine = Engine(trt, path.read_bytes(), access, loading=loading, is_managed=is_managed)
        inputs = [
            ModelInput(name=name, shape=shape, dtype=dtype)
            for name, (shape, dtype) in engine.describe_inputs().items()
        ]
        require_known_names(inputs, shapes or {})
        tuned = _tuned(engine, inputs, batch)
        feed = make_feeds(inputs, batch=batch, shapes={**tuned, **(shapes or {})}, seed=seed)
        engine.bind(feed)
        before = read_facts()
        with PowerMeter() as meter:
            figures = time_engine(engine, access, timing)
    return {
        **figures,
        "model": path.name,
        "defaults": describe_defaults(figures["settings"]),
        "engine_sha256": digest_file(path),
        "shapes": {name: list(x.shape) for name, x in feed.items()},
        "inputs": f"random, seed {seed}",
        "memory": "managed" if is_managed else "device",
        "cuda_library": cuda,
        "dla_core": loading.dla_core,
        "device": device._asdict(),
        "tensorrt_version": str(trt.__version__),
        "power": meter.summary(queries_per_s=figures["throughput_qps"]),
        "facts": before,
        "facts_after": read_facts(),
    }


def _tuned(
    engine: Engine, inputs: list[ModelInput], batch: int | None
) -> dict[str, tuple[int, ...]]:
    """Return the shapes of dynamic inputs for which the engine is tuned, with `batch` as the first axis if given."""
    found = {}
    for item in inputs:
        if None in item.shape:
            best = engine.tuned_shape(item.name)
            found[item.name] = best if batch is None else (batch, *best[1:])
    return found
