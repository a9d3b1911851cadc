"""Times an engine by the rules of trtexec. Main entry: `time_engine`.

Rules (deployment/tensorrt.md 5.3, from trtexec's sources): a warm-up by time, then at least a duration and a number of
queries; two queries in flight; times from CUDA events; percentiles without interpolation. trtexec 11 changed three
defaults: no transfers, spin wait and a CUDA graph, where trtexec up to 10 has transfers, a sleeping wait and no graph.
Figures of the two kinds do not belong into one table, so the settings are part of the result.
"""

import time
from typing import Any, Dict, List, NamedTuple, Optional, Sequence

import numpy as np

from deploy.board.cuda import Cuda
from deploy.board.runner import Engine
from edgeq.core.errors import EdgeqError

_IN_FLIGHT = 2  # trtexec without --exposeDMA
_UNSTABLE_PCT = 2.5  # the coefficient of variation above which trtexec warns


class TimingSpec(NamedTuple):
    """How to measure; the defaults are those of trtexec 11.

    Attributes:
        warm_up_ms: not counted.
        duration_s: least time of measuring.
        iterations: least number of queries.
        has_transfers: copy inputs and outputs in every query.
        is_spinning: wait by spinning.
        has_graph: launch a captured CUDA graph.
    """

    warm_up_ms: float = 200.0
    duration_s: float = 3.0
    iterations: int = 10
    has_transfers: bool = False
    is_spinning: bool = True
    has_graph: bool = True


def trtexec_defaults(major: int) -> TimingSpec:
    """Return what trtexec of TensorRT `major` measures when it is told nothing."""
    is_new = major >= 11
    return TimingSpec(has_transfers=not is_new, is_spinning=is_new, has_graph=is_new)


class _Query(NamedTuple):
    """The events of one query in flight."""

    upload: int
    uploaded: int
    start: int
    end: int
    download: int
    downloaded: int


class _Loop:
    """Puts queries into the streams and reads the times of those that are done, in ms."""

    def __init__(self, engine: Engine, cuda: Cuda, spec: TimingSpec, graph: Optional[int]) -> None:
        self._engine, self._cuda, self._spec, self._graph = engine, cuda, spec, graph
        self._up, self._down = cuda.create_stream(), cuda.create_stream()
        events = [[cuda.create_event() for _ in _Query._fields] for _ in range(_IN_FLIGHT)]
        self._free = [_Query(*items) for items in events]
        self._running: List[Any] = []
        self.rows: List[Dict[str, float]] = []

    def query(self, *, is_counted: bool) -> None:
        """Start one query; wait for the oldest first if enough are in flight."""
        if not self._free:
            self.finish_one()
        events, cuda, stream = self._free.pop(), self._cuda, self._engine.stream
        if self._spec.has_transfers:
            cuda.record(events.upload, self._up)
            self._engine.upload(self._up)
            cuda.record(events.uploaded, self._up)
            cuda.make_wait(stream, events.uploaded)
        cuda.record(events.start, stream)
        began = time.perf_counter()
        if self._graph is None:
            self._engine.enqueue(stream)
        else:
            cuda.launch(self._graph, stream)
        enqueue_ms = 1000 * (time.perf_counter() - began)
        cuda.record(events.end, stream)
        if self._spec.has_transfers:
            cuda.make_wait(self._down, events.end)
            cuda.record(events.download, self._down)
            self._engine.download(self._down)
            cuda.record(events.downloaded, self._down)
        self._running.append((events, enqueue_ms, is_counted))

    def finish_one(self) -> None:
        """Wait for the oldest query and keep its times."""
        events, enqueue_ms, is_counted = self._running.pop(0)
        cuda, has_transfers = self._cuda, self._spec.has_transfers
        cuda.wait(events.downloaded if has_transfers else events.end)
        self._free.append(events)
        if is_counted:
            compute = cuda.elapsed_ms(events.start, events.end)
            up = cuda.elapsed_ms(events.upload, events.uploaded) if has_transfers else 0.0
            down = cuda.elapsed_ms(events.download, events.downloaded) if has_transfers else 0.0
            row = {"latency_ms": up + compute + down, "gpu_compute_ms": compute}
            self.rows.append(dict(row, h2d_ms=up, d2h_ms=down, enqueue_ms=enqueue_ms))

    def finish(self) -> None:
        """Wait for all queries."""
        while self._running:
            self.finish_one()


def time_engine(engine: Engine, cuda: Cuda, spec: TimingSpec) -> Dict[str, Any]:
    """Return figures and settings of an engine that `bind` gave its inputs.

    The result has, each in ms: `latency_ms`, `gpu_compute_ms`, `h2d_ms`, `d2h_ms`, `enqueue_ms` with min, max, mean,
    median, p90, p95 and p99; `throughput_qps`; `cov_pct` of the compute time; `warnings` in words; `settings`.

    Raises:
        DeviceError: if the GPU fails.
        BuildError: if the engine does.
    """
    engine.upload(engine.stream)
    engine.enqueue(
        engine.stream
    )  # TensorRT sets up lazily: never timed, and needed before a capture
    cuda.synchronize(engine.stream)
    graph, no_graph = (None, "") if not spec.has_graph else _capture(engine, cuda)
    loop = _Loop(engine, cuda, spec, graph)
    start = time.perf_counter()
    while time.perf_counter() - start < spec.warm_up_ms / 1000:
        loop.query(is_counted=False)
    loop.finish()
    start, count = time.perf_counter(), 0
    while count < spec.iterations or time.perf_counter() - start < spec.duration_s:
        loop.query(is_counted=True)
        count += 1
    loop.finish()
    seconds = time.perf_counter() - start
    columns = {key: [row[key] for row in loop.rows] for key in loop.rows[0]}
    result = {key: summarise(values) for key, values in columns.items()}
    compute = np.asarray(columns["gpu_compute_ms"])
    mean = float(compute.mean())
    cov = 100 * float(compute.std()) / mean if mean else 0.0
    settings = dict(spec._asdict(), has_graph=graph is not None, queries=count, streams=1)
    return dict(
        result,
        throughput_qps=count / seconds,
        cov_pct=cov,
        warnings=_warn(result, cov) + ([no_graph] if no_graph else []),
        settings=settings,
    )


def summarise(values: Sequence[float]) -> Dict[str, float]:
    """Return min, max, mean, median and three percentiles of at least one value."""
    ascending = sorted(values)
    return {
        "min": ascending[0],
        "max": ascending[-1],
        "mean": float(np.mean(ascending)),
        "median": float(np.median(ascending)),
        "p90": percentile(ascending, 90),
        "p95": percentile(ascending, 95),
        "p99": percentile(ascending, 99),
    }


def percentile(ascending: Sequence[float], pct: float) -> float:
    """Return trtexec's percentile of values in ascending order: no interpolation, in float32 as trtexec computes it.

    Example:
        >>> percentile(range(10), 90)
        8

    Source: TensorRT samples/common/sampleReporting.cpp, findPercentile.
    """
    count = len(ascending)
    exclude = int((np.float32(1) - np.float32(pct) / np.float32(100)) * np.float32(count))
    return ascending[max(count - 1 - exclude, 0)]


def _capture(engine: Engine, cuda: Cuda) -> Any:
    """Return the graph of one run, or None and the reason; trtexec goes on without it, too."""
    try:
        return cuda.capture(engine.stream, lambda: engine.enqueue(engine.stream)), ""
    except EdgeqError as error:
        return None, f"no CUDA graph: {error.what}"


def _warn(figures: Dict[str, Dict[str, float]], cov_pct: float) -> List[str]:
    """Return trtexec's three warnings, where they apply."""
    median = {name: item["median"] for name, item in figures.items()}
    compute, warnings = median["gpu_compute_ms"], []
    if median["enqueue_ms"] > 0.8 * compute:
        warnings.append(
            "enqueuing takes as long as computing: the processor, not the GPU, sets the pace"
        )
    if max(median["h2d_ms"], median["d2h_ms"]) >= compute:
        warnings.append("copies take longer than computing")
    if cov_pct > _UNSTABLE_PCT:
        warnings.append(
            f"the compute time varies by {cov_pct:.1f} % (1 sigma): fix power mode and clocks"
        )
    return warnings
