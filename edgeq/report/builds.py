"""Several builds side by side: what `edgeq report A B` shows of each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgeq.core.errors import InputError
from edgeq.core.files import read_json
from edgeq.report.words import Latency, match_pcts, top1_pcts

LATENCY = "latency.json"
_WEIGHT_ONLY = "w4a16"
# What `edgeq deploy` brings back from the board.
DEVICE_REPORT = "device_report.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildRow:
    """One build in a comparison; None marks what was not measured.

    Attributes:
        name: of its folder.
        match_pct: share of samples with the teacher's top class; of the optimised ones where there are several kinds.
        sqnr_db: of the output that agrees worst.
        latency_ms, float_latency_ms: medians of the quantized and of the float model.
        backend: what the latencies were measured with.
    """

    name: str
    model: str
    target: str
    bits: str
    recipe: str
    effort: str
    top1_before_pct: float | None
    top1_after_pct: float | None
    match_pct: float | None
    sqnr_db: float | None
    size_before_kb: float
    size_kb: float
    latency_ms: float | None
    float_latency_ms: float | None
    backend: str | None

    def to_dict(self) -> dict[str, Any]:
        """Return the plain form."""
        return asdict(self)


def read_build(folder: Path) -> BuildRow:
    """Return what the build in `folder` came to.

    Raises:
        InputError: if there is no finished build, or one of its files is damaged.
    """
    results = read_json(folder / "results.json")
    if isinstance(results, dict) and results.get("bits") == _WEIGHT_ONLY:
        raise InputError(
            "this is a result of `edgeq weight-only`, which has no training and no page",
            why="a build of the same model has other figures: a student, its codes, a recipe",
            mend="read results.json there, or pass folders that `edgeq build` wrote",
            path=folder,
        )
    latency = read_latency(folder)
    try:
        return _row(folder.resolve().name, results, latency)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise InputError(
            f"results.json is not what a build writes: {type(error).__name__} {error}",
            why="the report shows what is stored there",
            mend="run the build again with this version of edgeq",
            path=folder,
        ) from error


def read_latency(folder: Path) -> Latency | None:
    """Return the measurement that lies in `folder`, or None where there is none.

    Two models in TensorRT go before what the board reports of the quantized one alone, and that before ONNX Runtime: a
    figure of the device is never hidden behind one of another runtime.

    Raises:
        InputError: if it is not what `tools/bench_latency.py --json` writes for two models, or the board reports.
    """
    both, device = _read_both(folder / LATENCY), _read_device(folder / DEVICE_REPORT)
    is_own = both is not None and both.backend.startswith("TensorRT")
    return both if is_own or device is None else device


def _read_both(path: Path) -> Latency | None:
    """Return what was timed of the float and the quantized model, or None where nothing was."""
    if not path.exists():
        return None
    data = read_json(path)
    try:
        before, after = (float(item["median_ms"]) for item in data["models"])
        backend, ratio = str(data["backend"]), float(data["ratio"])
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{LATENCY} is no measurement of two models",
            why="it is compared with the float model in the same run",
            mend=f"python tools/bench_latency.py MODEL model.qdq.onnx --json > {LATENCY}, or delete the file",
            path=path,
        ) from error
    return Latency(backend=backend, before_ms=before, after_ms=after, ratio=ratio)


def _read_device(path: Path) -> Latency | None:
    """Return what the board measured, or None where nothing was, or a run that did not pass."""
    report = read_json(path) if path.exists() else {}
    try:
        if not report.get("passed") or "timing" not in report:
            return None
        return Latency(
            backend=f"TensorRT {report['tensorrt_version']} on {report['device']['name']}",
            before_ms=None,
            after_ms=float(report["timing"]["latency_ms"]["median"]),
            ratio=None,
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{DEVICE_REPORT} is no report of a board",
            why="its latency is shown with the build",
            mend="run `edgeq deploy` again, or delete the file",
            path=path,
        ) from error


def _row(name: str, results: Mapping[str, Any], latency: Latency | None) -> BuildRow:
    agreement, recipe = results["agreement"], results["build"]["recipe"]
    before, after = top1_pcts(results)
    return BuildRow(
        name=name,
        model=str(results["model"]),
        target=str(results["target"]),
        bits=str(results["bits"]),
        recipe=str(recipe["name"]),
        effort=str(recipe["effort"]),
        top1_before_pct=before,
        top1_after_pct=after,
        match_pct=match_pcts(agreement)[0][2],
        sqnr_db=min((float(item["sqnr_db"]) for item in agreement["outputs"]), default=None),
        size_before_kb=results["size_bytes"]["before"] / 1e3,
        size_kb=results["size_bytes"]["after"] / 1e3,
        latency_ms=latency.after_ms if latency else None,
        float_latency_ms=latency.before_ms if latency else None,
        backend=latency.backend if latency else None,
    )
