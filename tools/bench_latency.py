"""Time one or two ONNX models in ONNX Runtime on the CPU.

    python tools/bench_latency.py A.onnx [B.onnx] [--batch 1] [--threads 2] [--json]

Two models are run interleaved, and the ratio of their medians is printed. This is not a TensorRT latency.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from deploy.latency import LatencyReport, LatencySpec, measure_latency, parse_shape
from edgeq.core.errors import EdgeqError
from edgeq.core.serial import canonical_json


def main(arguments: list[str] | None = None) -> int:
    """Return the exit code: 0, or that of the error."""
    options = _parse(arguments)
    try:
        spec = LatencySpec(
            warm_up_ms=options.warm_up_ms,
            duration_s=options.duration_s,
            iterations=options.iterations,
            threads=options.threads,
            batch=options.batch,
            shapes=dict(parse_shape(text) for text in options.shape),
            seed=options.seed,
        )
        models = [path for path in (options.a, options.b) if path is not None]
        report = measure_latency(models, spec=spec)
    except EdgeqError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print(canonical_json(report.to_dict()) if options.json else _table(report))
    return 0


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Time one or two ONNX models in ONNX Runtime on the CPU (not a TensorRT latency).",
        epilog="example: python tools/bench_latency.py model.onnx model.qdq.onnx --batch 8 --threads 2",
    )
    defaults = LatencySpec()
    parser.add_argument("a", type=Path, metavar="A.onnx")
    parser.add_argument("b", type=Path, metavar="B.onnx", nargs="?", help="compared with A")
    parser.add_argument("--batch", type=int, help="size of a dynamic batch axis (1)")
    parser.add_argument(
        "--shape",
        action="append",
        default=[],
        metavar="NAME:1x3x32x32",
        help="of an input; repeatable",
    )
    parser.add_argument("--threads", type=int, help="of one operator (ONNX Runtime chooses)")
    parser.add_argument(
        "--warm-up-ms", type=float, default=defaults.warm_up_ms, help="(%(default)s)"
    )
    parser.add_argument(
        "--duration-s",
        type=float,
        default=defaults.duration_s,
        help="least time a model (%(default)s)",
    )
    parser.add_argument(
        "--iterations",
        type=int,
        default=defaults.iterations,
        help="least runs a model (%(default)s)",
    )
    parser.add_argument(
        "--seed", type=int, default=defaults.seed, help="of the inputs (%(default)s)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser.parse_args(arguments)


def _table(report: LatencyReport) -> str:
    columns = ("median", "mean", "min", "max", "p90", "p95", "p99")
    lines = [
        f"{report.backend} (version {report.runtime_version}, its optimisations on)",
        f"{'ms a call':<28}"
        + "".join(f"{name:>10}" for name in columns)
        + f"{'calls/s':>11}{'calls':>8}",
    ]
    for item in report.models:
        times = "".join(f"{getattr(item, f'{name}_ms'):>10.4f}" for name in columns)
        lines.append(
            f"{item.model[-28:]:<28}{times}{item.throughput_qps:>11.1f}{item.iterations:>8}"
        )
        if item.cov_pct > 2.5:  # trtexec's limit
            lines.append(
                f"  unstable: the times of {item.model} vary by {item.cov_pct:.1f} % (1 sigma)"
            )
    for item in report.models:
        shapes = ", ".join(
            f"{name} {'x'.join(map(str, shape))}" for name, shape in item.shapes.items()
        )
        lines.append(f"input of {item.model}: {shapes}")
    if report.ratio is not None:
        lines.append(f"ratio of medians B/A: {report.ratio:.3f}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
