"""Time ONNX files in ONNX Runtime, or TensorRT engines, by the rules and in the words of trtexec.

    python tools/bench_latency.py A.onnx [B.onnx] [--backend onnxrt-cpu|onnxrt-cuda|onnxrt-tensorrt]
    python tools/bench_latency.py engine.plan [other.plan] [--against times.json]

Two ONNX files run interleaved, two engines one after the other. A figure of the processor and one of a GPU never stand
in one table. See docs/measuring.md.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deploy.board.timing import TimingSpec, trtexec_defaults
from deploy.cuda_backends import BACKENDS
from deploy.engine.measure import is_engine, measure_engine
from deploy.latency import LatencyReport, LatencySpec, measure_latency, parse_shape
from deploy.providers import GPU_BACKENDS, measure_on_gpu
from deploy.trtexec_times import read_times
from edgeq.core.errors import INTERRUPTED, EdgeqError, InputError
from edgeq.core.serial import canonical_json

CPU = "onnxrt-cpu"
_METRICS = ("latency_ms", "gpu_compute_ms", "h2d_ms", "d2h_ms", "enqueue_ms")
_COLUMNS = ("median", "mean", "min", "max", "p90", "p95", "p99")
_UNSTABLE_PCT = 2.5  # trtexec's limit
_NAME = 28
_TRTEXEC = 11  # whose defaults apply

# The four kinds of runs, and the options that not every one of them reads.
_ON_CPU = "ONNX files on the processor"
_ON_GPU = "ONNX files with a --backend on a GPU"
_ENGINE = "TensorRT engines"
_FILE = "a file of trtexec alone"
_READ_BY = {
    "--backend": (_ON_CPU, _ON_GPU),
    "--threads": (_ON_CPU, _ON_GPU),
    "--trtexec-defaults": (_ON_GPU, _ENGINE),
    "--transfers": (_ON_GPU, _ENGINE),
    "--cuda-graph": (_ON_GPU, _ENGINE),
    "--spin-wait": (_ENGINE,),  # how ONNX Runtime waits is its own choice
    "--cuda": (_ENGINE,),
    "--against": (_ENGINE, _FILE),
    **dict.fromkeys(
        ("--batch", "--shape", "--warm-up-ms", "--duration-s", "--iterations", "--seed"),
        (_ON_CPU, _ON_GPU, _ENGINE),
    ),
}


def main(arguments: list[str] | None = None) -> int:
    """Return the exit code: 0, that of the error, or 130 for an interrupt."""
    options = _parse(arguments)
    try:
        _require_sense(options)
        _write(_measure(options))
    except EdgeqError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    return 0


def _measure(options: argparse.Namespace) -> str:
    if _kind(options) in (_ENGINE, _FILE):
        report = _time_engines(options)
        return canonical_json(report) if options.json else _engine_table(report)
    onnx = _time_onnx(options)
    return canonical_json(onnx.to_dict()) if options.json else _table(onnx)


def _write(text: str) -> None:
    try:
        print(text, flush=True)
    except OSError as error:
        # What stays in the buffer would fail once more when the process ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise InputError(
            f"the figures cannot be written: {error.strerror}",
            why="they go to standard output, which takes no more",
            mend="free some space where standard output goes, and measure again",
        ) from error


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Time ONNX files in ONNX Runtime, or TensorRT engines, by the rules of trtexec.",
        epilog="example: python tools/bench_latency.py engine.plan --against times.json",
    )
    switch = argparse.BooleanOptionalAction
    defaults = LatencySpec()
    add = parser.add_argument
    add("a", type=Path, metavar="A", nargs="?", help="an ONNX file or an engine")
    add("b", type=Path, metavar="B", nargs="?", help="of the same kind; compared with A")
    add("--backend", choices=(CPU, *GPU_BACKENDS), help=f"of ONNX files ({CPU})")
    add("--batch", type=int, help="size of a dynamic batch axis (1; what an engine is tuned for)")
    shape_help = "of an input; repeatable"
    add("--shape", action="append", metavar="NAME:1x3x32x32", help=shape_help)
    add("--threads", type=int, help="of one operator (ONNX Runtime chooses)")
    add("--warm-up-ms", type=float, help=f"({defaults.warm_up_ms:g})")
    duration_help = f"least time a model ({defaults.duration_s:g})"
    add("--duration-s", type=float, help=duration_help)
    add("--iterations", type=int, help=f"least runs a model ({defaults.iterations})")
    add("--seed", type=int, help=f"of the inputs ({defaults.seed})")
    add("--json", action="store_true", help="print JSON")
    gpu = parser.add_argument_group("on a GPU")
    add = gpu.add_argument
    which = f"whose defaults the next three have: of trtexec 8 to 10, or 11 ({_TRTEXEC})"
    add("--trtexec-defaults", type=int, choices=(10, 11), help=which)
    add("--transfers", action=switch, help="copy inputs and outputs in every query")
    add("--spin-wait", action=switch, help="wait by spinning; for engines")
    add("--cuda-graph", action=switch, help="launch a captured graph")
    library_help = f"library that reaches the GPU, for engines ({BACKENDS[0]})"
    add("--cuda", choices=BACKENDS, help=library_help)
    against_help = "what `trtexec --exportTimes` wrote of the same engine"
    add("--against", type=Path, metavar="TIMES.json", help=against_help)
    return parser.parse_args(arguments)


def _require_sense(options: argparse.Namespace) -> None:
    """Refuse what would put figures of two kinds side by side, or an option without effect."""
    models = [path for path in (options.a, options.b) if path is not None]
    if not models and options.against is None:
        raise InputError(
            "there is nothing to time",
            why="a measurement needs a model",
            mend="pass a model, or --against times.json to read one of trtexec",
        )
    if len({is_engine(path) for path in models}) > 1:
        raise InputError(
            "an ONNX file and an engine",
            why="figures of ONNX Runtime and of TensorRT are no measurements of one thing",
            mend="time each by itself; edgeq engine makes an engine of the other",
        )
    kind = _kind(options)
    for option, kinds in _READ_BY.items():
        name = option.removeprefix("--").replace("-", "_")
        if getattr(options, name) is not None and kind not in kinds:
            raise InputError(
                f"{option} has no effect on {kind}",
                why=f"it is for {' and '.join(kinds)}",
                mend="leave it out",
            )


def _kind(options: argparse.Namespace) -> str:
    if options.a is None:
        return _FILE
    if is_engine(options.a):
        return _ENGINE
    return _ON_CPU if options.backend in (None, CPU) else _ON_GPU


def _spec(options: argparse.Namespace) -> LatencySpec:
    names = ("warm_up_ms", "duration_s", "iterations", "threads", "batch", "seed")
    asked = {name: getattr(options, name) for name in names}
    return LatencySpec(
        shapes=dict(parse_shape(text) for text in options.shape or ()),
        **{name: value for name, value in asked.items() if value is not None},
    )


def _timing(options: argparse.Namespace) -> TimingSpec:
    usual = trtexec_defaults(options.trtexec_defaults or _TRTEXEC)
    spec = _spec(options)  # checks the numbers
    asked = {
        "has_transfers": options.transfers,
        "is_spinning": options.spin_wait,
        "has_graph": options.cuda_graph,
    }
    return usual._replace(
        warm_up_ms=spec.warm_up_ms,
        duration_s=spec.duration_s,
        iterations=spec.iterations,
        **{name: value for name, value in asked.items() if value is not None},
    )


def _time_onnx(options: argparse.Namespace) -> LatencyReport:
    models = [path for path in (options.a, options.b) if path is not None]
    if _kind(options) == _ON_CPU:
        return measure_latency(models, spec=_spec(options))
    timing = _timing(options)
    return measure_on_gpu(
        models,
        options.backend,
        _spec(options),
        has_transfers=timing.has_transfers,
        has_graph=timing.has_graph,
    )


def _time_engines(options: argparse.Namespace) -> dict[str, Any]:
    """Return the figures of the engines and of trtexec; the keys that `edgeq report` reads are those of ONNX files."""
    timing, spec = _timing(options), _spec(options)
    against = None if options.against is None else read_times(options.against)
    models = [
        measure_engine(
            path,
            timing,
            cuda=options.cuda or BACKENDS[0],
            shapes=spec.shapes,
            batch=spec.batch,
            seed=spec.seed,
        )
        for path in (options.a, options.b)
        if path is not None
    ]
    medians = [item["gpu_compute_ms"]["median"] for item in models]
    for item, median in zip(models, medians, strict=True):
        item["median_ms"] = median
    versions = dict.fromkeys(item["tensorrt_version"] for item in models)
    return {
        "backend": f"TensorRT {', '.join(versions)}, GPU compute time" if models else "trtexec",
        "models": models,
        "ratio": medians[1] / medians[0] if len(medians) == 2 else None,
        "against": against,
    }


def _table(report: LatencyReport) -> str:
    lines = [
        f"{report.backend} (version {report.runtime_version}, its optimisations on)",
        f"{'ms a call':<{_NAME}}"
        + "".join(f"{name:>10}" for name in _COLUMNS)
        + f"{'calls/s':>11}{'calls':>8}",
    ]
    for item in report.models:
        times = "".join(f"{getattr(item, f'{name}_ms'):>10.4f}" for name in _COLUMNS)
        lines.append(
            f"{item.model[-_NAME:]:<{_NAME}}{times}{item.throughput_qps:>11.1f}{item.iterations:>8}"
        )
        if item.cov_pct > _UNSTABLE_PCT:
            lines.append(
                f"  unstable: the times of {item.model} vary by {item.cov_pct:.1f} % (1 sigma)"
            )
    lines += [f"input of {item.model}: {_shapes(item.shapes)}" for item in report.models]
    if report.defaults:
        lines.append(report.defaults)
    if report.power is not None:
        lines.append(_describe_power(report.power))
    if report.ratio is not None:
        lines.append(f"ratio of medians B/A: {report.ratio:.3f}")
    return "\n".join(lines)


def _engine_table(report: dict[str, Any]) -> str:
    against = report["against"]
    rows = [(item["model"], item) for item in report["models"]]
    rows += [("trtexec", against)] if against is not None else []
    lines = [report["backend"]]
    for metric in _METRICS:
        lines.append(f"{metric:<{_NAME}}" + "".join(f"{name:>10}" for name in _COLUMNS))
        for name, item in rows:
            times = "".join(f"{item[metric][column]:>10.4f}" for column in _COLUMNS)
            lines.append(f"  {name[-_NAME + 2 :]:<{_NAME - 2}}{times}")
    for name, item in rows:
        lines.append(f"throughput of {name}: {item['throughput_qps']:.1f} queries/s")
    for item in report["models"]:
        lines += _describe(item)
    if report["ratio"] is not None:
        lines.append(f"ratio of median GPU compute times B/A: {report['ratio']:.3f}")
    if against is not None:
        lines += _describe_against(report["models"], against)
    return "\n".join(lines)


def _describe(item: dict[str, Any]) -> list[str]:
    """Return what a figure is worth nothing without: settings, place, clocks and power."""
    device = item["device"]
    gpu = f"{device['name']}, compute capability {device['compute_capability']}, CUDA {device['cuda_version']}"
    lines = [
        f"{item['model']}: {item['defaults']}",
        f"  {gpu}, {item['memory']} memory by {item['cuda_library']}",
        f"  inputs {_shapes(item['shapes'])}, {item['inputs']}; engine {item['engine_sha256'][:12]}",
    ]
    if item["dla_core"] is not None:
        lines.append(f"  DLA core {item['dla_core']}, by the record beside the engine")
    lines += [f"  warning: {text}" for text in item["warnings"]]
    return [*lines, f"  {_describe_power(item['power'])}"]


def _describe_power(power: Mapping[str, Any]) -> str:
    if power["tool"] is None:
        return "clocks and power: not recorded, neither tegrastats nor nvidia-smi is on PATH"
    figures = {key: value for key, value in power.items() if key != "tool" and value is not None}
    words = ", ".join(
        f"{key} {value if isinstance(value, str) else format(value, '.4g')}"
        for key, value in figures.items()
    )
    return f"{power['tool']}: {words}"


def _describe_against(models: list[dict[str, Any]], against: dict[str, Any]) -> list[str]:
    lines = [
        against["defaults"],
        f"  {against['queries']} queries; throughput from its time stamps",
    ]
    median = against["gpu_compute_ms"]["median"]
    for item in models:
        ratio = item["gpu_compute_ms"]["median"] / median if median else float("nan")
        lines.append(f"median GPU compute time of {item['model']} / trtexec: {ratio:.3f}")
        if item["settings"]["has_transfers"] != against["has_transfers"]:
            lines.append(
                "  one counts transfers and the other does not: compare gpu_compute_ms, not latency_ms"
            )
    return lines


def _shapes(shapes: dict[str, Any]) -> str:
    return ", ".join(f"{name} {'x'.join(map(str, shape))}" for name, shape in shapes.items())


if __name__ == "__main__":
    sys.exit(main())
