"""Several builds side by side: what `edgeq report A B` shows of each."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from edgeq.core.errors import InputError
from edgeq.core.files import FilePath, digest_file, read_json
from edgeq.report.words import Latency, match_pcts, top1_pcts

LATENCY = "latency.json"
_WEIGHT_ONLY = "w4a16"
# What `edgeq deploy` brings back from the board.
DEVICE_REPORT = "device_report.json"
_QDQ = "model.qdq.onnx"
# Names every file of the bundle with its digest; the board tells the digest of it.
_SEAL = "bundle/SHA256SUMS"

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What was measured of a build.

    Attributes:
        latency: None where nothing was, or nothing that can be believed.
        left_out: the files that lie there and are not believed, with the reason, one sentence each.
    """

    latency: Latency | None
    left_out: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildRow:
    """One build in a comparison; None marks what was not measured.

    Attributes:
        name: of its folder.
        match_pct: share of samples with the teacher's top class; of the optimised ones where there are several kinds.
        sqnr_db: of the output that agrees worst.
        latency_ms, float_latency_ms: medians of the quantized and of the float model.
        backend: what the latencies were measured with.
        left_out: measurements that lie there and are not shown, with the reason, one sentence each.
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
    left_out: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the plain form."""
        return asdict(self)


def read_build(folder: FilePath) -> BuildRow:
    """Return what the build in `folder` came to.

    Raises:
        InputError: if there is no finished build, or its results are damaged.
    """
    folder = Path(folder)
    results = read_json(folder / "results.json")
    if isinstance(results, dict) and results.get("bits") == _WEIGHT_ONLY:
        raise InputError(
            "this is a result of `edgeq weight-only`, which has no training and no page",
            why="a build of the same model has other figures: a student, its codes, a recipe",
            mend="read results.json there, or pass folders that `edgeq build` wrote",
            path=folder,
        )
    try:
        measured = read_latency(folder, str(results["model"]))
        return _row(folder.resolve().name, results, measured)
    except (ArithmeticError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"results.json is not what a build writes: {type(error).__name__} {error}",
            why="the report shows what is stored there",
            mend="run the build again with this version of edgeq",
            path=folder,
        ) from error


def read_latency(folder: Path, model: str) -> Measured:
    """Return what was timed of the build in `folder`, whose float file has the name `model`.

    Two models in TensorRT go before what the board reports of the quantized one alone, and that before ONNX Runtime: a
    figure of the device is never hidden behind one of another runtime.

    A file that cannot be read, or tells of something else, counts as not measured, and a warning says so: a figure is
    missed, but neither a build nor a comparison of others ends for it.
    """
    left_out: list[str] = []

    def read(name: str, understand: Callable[[Any], Latency | None], mend: str) -> Latency | None:
        path = folder / name
        if not path.exists():
            return None
        try:
            return understand(read_json(path))
        except InputError:
            reason = "it is no JSON that can be read; a command that failed leaves such a file"
        except ValueError as error:
            reason = str(error)
        except (ArithmeticError, AttributeError, KeyError, TypeError):
            reason = "it has another form"
        left_out.append(f"{name} is left out: {reason} ({mend}, or delete the file)")
        return None

    again = f"python tools/bench_latency.py MODEL {_QDQ} --json > {LATENCY}"
    timed = partial(_understand_both, model=model, quantized=folder / _QDQ)
    reported = partial(_understand_device, seal=folder / _SEAL)
    both = read(LATENCY, timed, again)
    device = read(DEVICE_REPORT, reported, "run `edgeq deploy` again")
    for sentence in left_out:
        _LOG.warning("%s: %s", folder, sentence)
    is_own = both is not None and both.backend.startswith("TensorRT")
    return Measured(latency=both if is_own or device is None else device, left_out=tuple(left_out))


def _understand_both(data: Any, model: str, quantized: Path) -> Latency:
    """Return what `tools/bench_latency.py --json` wrote of the float model, by its name, and of the file `quantized`.

    Raises:
        ValueError: with the reason, if it timed something else.
    """
    backend, models = str(data["backend"]), list(data["models"])
    if len(models) != 2:
        raise ValueError("it is no measurement of two models in one run")
    if backend.startswith("TensorRT"):
        # Engines have names of their own, so the order is the user's to keep.
        if not all("engine_sha256" in item for item in models):
            raise ValueError("it gives a latency of TensorRT to files that are no engines")
    elif [item["model"] for item in models] != [model, quantized.name]:
        timed = " and then ".join(f"'{item['model']}'" for item in models)
        raise ValueError(f"it timed {timed}, not '{model}' and then '{quantized.name}'")
    elif not quantized.is_file() or models[1].get("sha256") != digest_file(quantized):
        raise ValueError(f"it timed another '{quantized.name}' than the one beside it")
    before, after = (_positive(item["median_ms"]) for item in models)
    return Latency(
        backend=backend, before_ms=before, after_ms=after, ratio=_positive(after / before)
    )


def _understand_device(report: Any, seal: Path) -> Latency | None:
    """Return what the board measured, or None where nothing was, or of a run that did not pass.

    Raises:
        ValueError: with the reason, if the time is none, or of another bundle than the one that `seal` lies in.
    """
    if not report.get("passed") or "timing" not in report:
        return None
    if not seal.is_file() or report.get("bundle_sha256") != digest_file(seal):
        raise ValueError("it is of another bundle than the one beside it")
    return Latency(
        backend=f"TensorRT {report['tensorrt_version']} on {report['device']['name']}",
        before_ms=None,
        after_ms=_positive(report["timing"]["latency_ms"]["median"]),
        ratio=None,
    )


def _positive(value: Any) -> float:
    if not 0 < value < math.inf:
        raise ValueError(f"a median of {value} ms is no measured time")
    return float(value)


def _row(name: str, results: Mapping[str, Any], measured: Measured) -> BuildRow:
    agreement, recipe = results["agreement"], results["build"]["recipe"]
    before, after = top1_pcts(results)
    latency = measured.latency
    row = BuildRow(
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
        left_out=measured.left_out,
    )
    # The parser of Python takes NaN and 1e999, which are no figures that a table or JSON can have.
    for key, value in row.to_dict().items():
        is_figure = key.endswith(("_pct", "_db", "_kb", "_ms")) and value is not None
        if is_figure and not math.isfinite(value):
            raise ValueError(f"{key} is {value}")
    return row
