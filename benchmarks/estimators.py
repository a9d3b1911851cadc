"""Compare ways to a sample set for a file that recorded no statistics, and write docs/estimators.md.

    EDGEQ_FIXTURES=../shared/data python benchmarks/estimators.py                  # every row that is not on record
    EDGEQ_FIXTURES=../shared/data python benchmarks/estimators.py --rows gzsq

All rows are of `resnet20_folded.onnx` at w4a4, with the same training, which is shorter than that of a standard build;
they rank the ways, and docs/results.md has what whole builds lose. Rows are kept in benchmarks/estimators.json.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from accuracy import Bench
from fixtures import add_fixtures, cifar10_of

from edgeq.core.files import read_json, write_bytes, write_json

ROOT = Path(__file__).parents[1]
RECORD = ROOT / "benchmarks" / "estimators.json"
PAGE = ROOT / "docs" / "estimators.md"
STEPS = 300


class Way(NamedTuple):
    """What is measured: a recipe, the figures that differ from its own, and what that is in words."""

    recipe: str
    settings: dict[str, str]
    what: str
    variant: str = "folded"


NO_STATISTICS = {"synthesis.batch_statistics": "0", "synthesis.sample_statistics": "0"}
WAYS = {
    "noise": Way("noise", {}, "Gaussian noise: the baseline"),
    "gzsq": Way("gzsq", {}, "GZSQ: noise matched to statistics that are derived from the weights"),
    "leaves": Way("leaves", {}, "dead leaves as they are"),
    "many leaves": Way("leaves", {"synthesis.samples": "4096"}, "eight times as many of them"),
    "classes": Way("estimate", NO_STATISTICS, "dead leaves moved to classes, no statistics"),
    "estimate": Way(
        "estimate", {}, "dead leaves moved to classes, held to the statistics of dead leaves"
    ),
    "recorded": Way(
        "edgeq", {}, "the yardstick: statistics from a state dict (--teacher)", "teacher"
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rows", nargs="+", choices=list(WAYS), default=list(WAYS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    add_fixtures(parser)
    parser.add_argument("--again", action="store_true", help="measure rows that are on record anew")
    options = parser.parse_args()
    cifar10 = cifar10_of(options)
    record = read_json(RECORD) if RECORD.exists() else {}
    for seed in options.seeds:
        for name in options.rows:
            runs = record.setdefault(name, {})
            if options.again or str(seed) not in runs:
                runs[str(seed)] = measure(WAYS[name], seed, cifar10)
                print(f"{name} seed {seed}: {runs[str(seed)]}", flush=True)
                write_json(RECORD, record)
    write_bytes(PAGE, page(record).encode())


def measure(way: Way, seed: int, fixtures: Path) -> dict[str, Any]:
    """Return the figures of one way."""
    settings = {"training.steps": str(STEPS), **way.settings}
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(fixtures, Path(folder), settings)
        return bench.run(f"w4a4/standard/{way.recipe}@{way.variant}", seed)


def page(record: dict[str, Any]) -> str:
    """Return docs/estimators.md."""
    lines = [
        "# Without statistics: what was compared",
        "",
        "Made by `benchmarks/estimators.py`; no figure is typed by hand. `resnet20_folded.onnx` (CIFAR-10, 88.52 % in",
        f"FP32) at w4a4, {STEPS} training steps, evaluated once after the last one; a standard build has more.",
        "What the first layer makes had 4 bits then; it has 8 now. All rows had the same grids.",
        "Where a row has several seeds, they show how far rows must be apart before one can be called better.",
        "",
        "| way | recipe and figures | drop of each seed, points | samples made in, s |",
        "| --- | --- | --- | --- |",
    ]
    for name, way in WAYS.items():
        if name in record:
            runs = [record[name][seed] for seed in sorted(record[name])]
            words = [way.recipe, *(f"--set {key}={text}" for key, text in way.settings.items())]
            drops = ", ".join(f"{run['drop_points']:.2f}" for run in runs)
            seconds = max(run["synthesis_s"] for run in runs)
            lines.append(f"| {way.what} | `{' '.join(words)}` | {drops} | {seconds:.0f} |")
    missing = [way.what for name, way in WAYS.items() if name not in record]
    if missing:
        lines += ["", f"Not measured yet: {'; '.join(missing)}."]
    every = [run for runs in record.values() for run in runs.values()]
    machines = "; ".join(sorted({run["machine"] for run in every}))
    versions = "; ".join(sorted({run["versions"] for run in every}))
    lines += [
        "",
        f"Machine (busy with other work, so seconds are too many): {machines}. Versions: {versions}.",
        "",
        "Three seeds of one recipe differ by 0.35 points (docs/results.md, `@folded`), so the ways that begin with",
        "dead leaves cannot be told apart here, and statistics add nothing to them at this length. `estimate` is the",
        "default: its samples show every class in equal numbers, and dead leaves as they are show some hardly ever.",
        "4,096 samples of 224x224 pixels are 2.5 GB, so more of them are no default; `--recipe leaves` is quicker.",
        "",
        "Not compared: a term of patch similarity for attention networks (PSAQ-ViT). It can only be judged on a",
        "trained vision transformer, and the fixtures have none; such networks get dead leaves moved to classes.",
        "Inputs that are no pictures get rows or maps of dead leaves, or noise where values have no neighbours; how",
        "good these are has not been measured either.",
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
