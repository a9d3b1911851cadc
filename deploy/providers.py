"""Latency of one or two models in ONNX Runtime on a GPU, by its CUDA or its TensorRT execution provider.

Entry: `measure_on_gpu`. Times are wall-clock times of one call, as for the CPU (`latency`). With transfers inputs come
from and outputs go to the processor's memory in each call; without, they stay on the GPU. Clocks and power are recorded
meanwhile (`power`). Not run on a GPU by us.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from deploy.latency import (
    LatencyReport,
    LatencySpec,
    require_ranks,
    summarise,
    time_interleaved,
    warm_up,
)
from deploy.onnxrt import Array, Session
from deploy.power import PowerMeter
from deploy.random_inputs import make_feeds, require_known_names
from deploy.trtexec_defaults import describe_defaults
from edgeq.core.errors import MissingDependencyError

# By --backend: the provider, and the options that make it quantize as the file says and capture a graph.
_PROVIDERS: dict[str, tuple[str, dict[str, str], str]] = {
    "onnxrt-cuda": ("CUDAExecutionProvider", {}, "enable_cuda_graph"),
    "onnxrt-tensorrt": (
        "TensorrtExecutionProvider",
        {"trt_int8_enable": "1", "trt_fp16_enable": "1"},
        "trt_cuda_graph_enable",
    ),
}
GPU_BACKENDS = tuple(_PROVIDERS)


def measure_on_gpu(
    models: Sequence[Path],
    backend: str,
    spec: LatencySpec,
    *,
    has_transfers: bool,
    has_graph: bool,
    device: str = "cuda",
) -> LatencyReport:
    """Return the latencies of `models` (one or two files) by the provider that `backend` names.

    Args:
        models: the files.
        backend: one of GPU_BACKENDS.
        spec: how to measure.
        has_transfers: copy inputs and outputs in every call.
        has_graph: have the provider capture a CUDA graph; needs fixed addresses, so it goes without transfers only.
        device: where the tensors lie, in ONNX Runtime's words.

    Raises:
        MissingDependencyError: if this ONNX Runtime has no such provider, or it does not start.
        InputError: if a file is missing, or an input shape is unknown or does not fit.
        ModelError: if ONNX Runtime cannot load or run a model, or an input has no shape.
    """
    import onnxruntime

    name, fixed, graph_option = _PROVIDERS[backend]
    _require_provider(name)
    uses_graph = has_graph and not has_transfers
    options = {**fixed, **({graph_option: "1"} if uses_graph else {})}
    sessions = [
        Session(path, optimise=True, threads=spec.threads, providers=[(name, options)])
        for path in models
    ]
    for session in sessions:
        _require_started(session, name)
    for path in models:
        require_ranks(path)
    require_known_names([item for session in sessions for item in session.inputs], spec.shapes)
    feeds = [
        make_feeds(session.inputs, batch=spec.batch, shapes=spec.shapes, seed=spec.seed)
        for session in sessions
    ]
    calls = [
        functools.partial(session.run, feed) if has_transfers else bind_call(session, feed, device)
        for session, feed in zip(sessions, feeds, strict=True)
    ]
    for call in calls:
        warm_up(call, spec.warm_up_ms)
    with PowerMeter() as meter:
        times_ms = time_interleaved(calls, spec)
    results = tuple(
        summarise(path, times, shapes={key: x.shape for key, x in feed.items()})
        for path, times, feed in zip(models, times_ms, feeds, strict=True)
    )
    settings = {"has_transfers": has_transfers, "is_spinning": None, "has_graph": uses_graph}
    return LatencyReport(
        backend=f"ONNX Runtime, {name}: not a TensorRT engine's latency",
        runtime_version=onnxruntime.__version__,
        spec=spec,
        models=results,
        ratio=results[1].median_ms / results[0].median_ms if len(results) == 2 else None,
        defaults=describe_defaults(settings, unknown="as ONNX Runtime chooses"),
        power=meter.summary(queries_per_s=1000 / float(np.mean(np.concatenate(times_ms)))),
    )


def bind_call(session: Session, feed: dict[str, Array], device: str) -> functools.partial[Any]:
    """Return a call of `session` whose inputs and outputs stay on `device`; its last argument is the binding."""
    import onnxruntime

    binding: Any = session.runtime.io_binding()
    for name, x in feed.items():
        value = onnxruntime.OrtValue.ortvalue_from_numpy(x, device, 0)
        binding.bind_ortvalue_input(name, value)
    for name in session.outputs:
        binding.bind_output(name, device, 0)
    return functools.partial(_run_bound, session, binding)


def _run_bound(session: Session, binding: Any) -> None:
    with session.explained():
        session.runtime.run_with_iobinding(binding)
        binding.synchronize_outputs()


def _require_provider(name: str) -> None:
    import onnxruntime

    found = onnxruntime.get_available_providers()
    if name not in found:
        raise _no_provider(f"this ONNX Runtime has no {name}, only {', '.join(found)}")


def _require_started(session: Session, name: str) -> None:
    """ONNX Runtime goes on with the CPU where a provider does not start, and that is no measurement of it."""
    found = session.runtime.get_providers()
    if found[0] != name:
        raise _no_provider(f"{name} did not start; the model would run on {found[0]}")


def _no_provider(what: str) -> MissingDependencyError:
    return MissingDependencyError(
        what,
        why="the figure asked for is that of a GPU",
        mend="pip install onnxruntime-gpu on a machine with an NVIDIA GPU, CUDA and cuDNN (the TensorRT provider needs "
        "TensorRT, too), or pass --backend onnxrt-cpu",
    )
