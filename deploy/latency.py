"""Latency of one or two models in ONNX Runtime on the CPU, measured by trtexec's rules.

These are figures of ONNX Runtime on this processor. They are not TensorRT latencies, and for a TensorRT-style Q/DQ
model they say nothing about INT8 speed (deployment/tensorrt.md 7.2). Rules of trtexec (5.3): warm-up by time, then at
least a duration and a number of iterations; percentiles without interpolation. Two models run interleaved, in turning
order.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from deploy.board.timing import percentile
from deploy.onnxrt import Session
from deploy.random_inputs import make_feeds, require_known_names
from edgeq.core.errors import InputError, ModelError
from edgeq.core.files import digest_file
from edgeq.core.serial import Spec
from edgeq.graph.read import read_model

_MAX_THREADS = 1024  # more than a processor has, and few enough for ONNX Runtime to start
BACKEND = "ONNX Runtime, CPU: not a TensorRT latency"


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencySpec(Spec):
    """How to measure.

    Attributes:
        warm_up_ms: per model, not counted.
        duration_s: least time that each model is measured for.
        iterations: least number of runs of each model.
        threads: of one operator; None leaves the choice to ONNX Runtime.
        batch: size of a dynamic batch axis; None is 1, or the file's own.
        shapes: by input name, the whole shape with the batch; needed where other axes are dynamic.
        seed: of the random inputs, 0 or more.

    Raises:
        InputError: if a figure is none that can be meant.
    """

    warm_up_ms: float = 200.0
    duration_s: float = 3.0
    iterations: int = 10
    threads: int | None = None
    batch: int | None = None
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    seed: int = 0

    def __post_init__(self) -> None:
        sizes = [size for shape in self.shapes.values() for size in shape]
        sizes += [size for size in (self.batch, self.threads) if size is not None]
        times = (self.warm_up_ms, self.duration_s)
        if (
            not all(math.isfinite(item) and item >= 0 for item in times)
            or self.iterations < 1
            or min(sizes, default=1) < 1
            or (self.threads or 1) > _MAX_THREADS
            or self.seed < 0
        ):
            raise InputError(
                "a time, count or size of the measurement is out of range",
                why="times and the seed are 0 or more and finite; iterations, batch and axes are 1 or more; threads "
                f"are 1 to {_MAX_THREADS}",
                mend="mend the number, or leave the option out",
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyResult(Spec):
    """Latency of one model; all times are wall-clock milliseconds of one call.

    Attributes:
        model: name of the file.
        sha256: of the file, 64 hex digits.
        iterations: calls that were measured.
        throughput_qps: calls a second of this model's own time; times the batch gives samples a second.
        cov_pct: standard deviation over mean, in per cent; trtexec calls more than 2.5 unstable.
        shapes: of the inputs, as measured.
    """

    model: str
    sha256: str
    iterations: int
    min_ms: float
    max_ms: float
    mean_ms: float
    median_ms: float
    p90_ms: float
    p95_ms: float
    p99_ms: float
    throughput_qps: float
    cov_pct: float
    shapes: dict[str, tuple[int, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyReport(Spec):
    """One or two models, measured together.

    Attributes:
        backend: what was measured, in words.
        runtime_version: of ONNX Runtime.
        spec: how.
        models: in the order given.
        ratio: median of the second over median of the first; None for one model.
        defaults: on a GPU, what was counted and whose defaults that is; empty on the processor.
        power: on a GPU, what `PowerMeter` tells of all models together; None on the processor.
    """

    backend: str
    runtime_version: str
    spec: LatencySpec
    models: tuple[LatencyResult, ...]
    ratio: float | None
    defaults: str = ""
    power: dict[str, float | str | None] | None = None


def measure_latency(models: Sequence[Path], *, spec: LatencySpec) -> LatencyReport:
    """Return the latencies of `models` (one or two files), with ONNX Runtime's own optimisations on.

    Raises:
        InputError: if a file is missing, or an input shape is unknown or does not fit.
        ModelError: if ONNX Runtime cannot load or run a model, or an input has no shape.
    """
    import onnxruntime

    sessions = [Session(path, optimise=True, threads=spec.threads) for path in models]
    for path in models:
        require_ranks(path)
    require_known_names([item for session in sessions for item in session.inputs], spec.shapes)
    feeds = [
        make_feeds(session.inputs, batch=spec.batch, shapes=spec.shapes, seed=spec.seed)
        for session in sessions
    ]
    calls = [
        lambda session=session, feed=feed: session.run(feed)
        for session, feed in zip(sessions, feeds, strict=True)
    ]
    for call in calls:
        warm_up(call, spec.warm_up_ms)
    times_ms = time_interleaved(calls, spec)
    results = tuple(
        summarise(path, times, shapes={name: x.shape for name, x in feed.items()})
        for path, times, feed in zip(models, times_ms, feeds, strict=True)
    )
    return LatencyReport(
        backend=BACKEND,
        runtime_version=onnxruntime.__version__,
        spec=spec,
        models=results,
        ratio=results[1].median_ms / results[0].median_ms if len(results) == 2 else None,
    )


def require_ranks(path: Path) -> None:
    """Check that every input has a shape; ONNX Runtime tells one without as a number by itself.

    Raises:
        ModelError: if one has none.
    """
    graph = read_model(path, with_external=False).graph
    constants = {item.name for item in graph.initializer}
    for item in graph.input:
        if item.name not in constants and not item.type.tensor_type.HasField("shape"):
            raise ModelError(
                f"input '{item.name}' has no shape",
                why="values are made for it, and the file does not tell how many axes they have",
                mend="export the model with the shape of its inputs",
                path=path,
            )


def summarise(
    model: Path, times_ms: Sequence[float], *, shapes: Mapping[str, tuple[int, ...]]
) -> LatencyResult:
    """Return the figures of the calls of the file `model`, of which there is at least one."""
    ascending = sorted(times_ms)
    mean = float(np.mean(ascending))
    return LatencyResult(
        model=model.name,
        sha256=digest_file(model),
        iterations=len(ascending),
        min_ms=ascending[0],
        max_ms=ascending[-1],
        mean_ms=mean,
        median_ms=float(np.median(ascending)),
        p90_ms=percentile(ascending, 90),
        p95_ms=percentile(ascending, 95),
        p99_ms=percentile(ascending, 99),
        throughput_qps=1000 / mean,
        cov_pct=100 * float(np.std(ascending)) / mean,
        shapes=dict(shapes),
    )


def parse_shape(text: str) -> tuple[str, tuple[int, ...]]:
    """Return the name and the sizes of `text`, for instance "input:1x3x32x32"; the name ends at the last colon.

    Raises:
        InputError: if `text` has another form.
    """
    name, _, sizes = text.rpartition(":")
    parts = sizes.split("x")
    if not name or not all(part.isascii() and part.isdigit() and int(part) > 0 for part in parts):
        raise InputError(
            f"--shape '{text}' is not understood",
            why="a shape is written name:1x3x32x32, batch first, every size greater than 0",
            mend="pass for instance --shape input:1x3x224x224",
        )
    return name, tuple(int(part) for part in parts)


def warm_up(call: Callable[[], object], warm_up_ms: float) -> None:
    """Run at least once, so that lazy initialisation is never measured."""
    end = time.perf_counter() + warm_up_ms / 1000
    call()
    while time.perf_counter() < end:
        call()


def time_interleaved(calls: Sequence[Callable[[], object]], spec: LatencySpec) -> list[list[float]]:
    """Return the times of each call in ms; the order turns every round, so that neither always comes second."""
    times_ms: list[list[float]] = [[] for _ in calls]
    order = list(range(len(calls)))
    end = time.perf_counter() + spec.duration_s * len(calls)
    while time.perf_counter() < end or len(times_ms[0]) < spec.iterations:
        for index in order:
            start = time.perf_counter_ns()
            calls[index]()
            times_ms[index].append((time.perf_counter_ns() - start) / 1e6)
        order.reverse()
    return times_ms
