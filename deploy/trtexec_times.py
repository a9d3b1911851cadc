"""Reads what `trtexec --exportTimes=times.json` wrote, and gives its figures as trtexec itself prints them.

The file is an array with one object a query, in milliseconds (deployment/tensorrt.md 5.3, from sampleReporting.cpp).
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from deploy.board.timing import summarise
from deploy.trtexec_defaults import describe_defaults
from edgeq.core.errors import InputError
from edgeq.core.files import read_json

_DURATIONS = {
    "latency_ms": "latencyMs",
    "gpu_compute_ms": "computeMs",
    "h2d_ms": "h2dMs",
    "d2h_ms": "d2hMs",
}


def read_times(path: Path) -> dict[str, Any]:
    """Return the figures of a file of trtexec, under the names of `deploy.board.timing.time_engine`.

    The throughput is that between the first start and the last end of a query: the file does not have the wall time
    that trtexec divides by.

    Raises:
        InputError: if the file is missing, or is not what trtexec exports.
    """
    rows = read_json(path)
    try:
        columns = {key: _column(rows, name) for key, name in _DURATIONS.items()}
        stamps = zip(_column(rows, "startEnqMs"), _column(rows, "endEnqMs"), strict=True)
        columns["enqueue_ms"] = [end - start for start, end in stamps]
        # Without transfers the stamps of the copies may be 0.
        start = max(min(_column(rows, "startH2dMs")), 0.0) or min(_column(rows, "startComputeMs"))
        end = max(_column(rows, "endD2hMs") + _column(rows, "endComputeMs"))
        figures: dict[str, Any] = {key: summarise(values) for key, values in columns.items()}
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise InputError(
            f"no times of trtexec: {type(error).__name__} {error}",
            why="one object a query was expected, with startEnqMs, computeMs, latencyMs and others",
            mend="write it with: trtexec --loadEngine=engine.plan --exportTimes=times.json",
            path=path,
        ) from error
    compute = np.asarray(columns["gpu_compute_ms"])
    mean = float(compute.mean())
    settings = {
        "has_transfers": any(columns["h2d_ms"]) or any(columns["d2h_ms"]),
        "is_spinning": None,
        "has_graph": None,
    }
    return {
        **figures,
        "throughput_qps": 1000 * len(rows) / (end - start) if end > start else 0.0,
        "cov_pct": 100 * float(compute.std()) / mean if mean else 0.0,
        "queries": len(rows),
        "has_transfers": settings["has_transfers"],
        "defaults": describe_defaults(settings, of="trtexec", unknown="not told by the file"),
    }


def _column(rows: Any, name: str) -> list[float]:
    values = [float(row[name]) for row in rows]
    if not all(map(math.isfinite, values)):
        msg = f"{name} has a value that is NaN or infinite"
        raise ValueError(msg)
    return values
