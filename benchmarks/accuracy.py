"""Measure the accuracy that a build keeps on the CIFAR-10 teacher of the fixtures, and write docs/results.md.

    EDGEQ_FIXTURES=../shared/data python benchmarks/accuracy.py                     # every row, three seeds
    EDGEQ_FIXTURES=../shared/data python benchmarks/accuracy.py --rows w4a4/standard/edgeq --seeds 0

A row is BITS/EFFORT/RECIPE of the file that has its BatchNorm (`resnet20_bn.onnx`). With `@folded` behind it, it is of
`resnet20_folded.onnx` and nothing else; with `@teacher`, of that file and the state dict of the network before folding,
which this script makes from `resnet20_bn.onnx` under names of its own. With `@cpu`, the target is `cpu`, whose
activations are unsigned; it is `jetson-orin` elsewhere.

Each run goes through the stages of `edgeq build` and is evaluated once, after its last training step, by ONNX Runtime
(graph optimisation off) on all 10,000 test pictures. The sample set does not depend on the bits: it is made once a
seed, effort and recipe, and its time is counted in every run that uses it. Rows are kept in benchmarks/accuracy.json
as they are finished, so a benchmark that was cut off goes on; docs/results.md is made from that file alone.

With --table every recipe is measured at the same seconds: see benchmarks/table.py, and `--table --help`.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from fixtures import add_fixtures, cifar10_of
from numpy.typing import NDArray
from onnx import numpy_helper
from results_page import tell_limit, write_page
from safetensors.numpy import save_file
from table_rows import stamp_row, tell_commit

import edgeq
from deploy.evaluate import evaluate_top1
from edgeq.core.files import read_json, write_json
from edgeq.core.progress import NoProgress
from edgeq.core.recipes import load_recipe
from edgeq.core.samples import SampleSet
from edgeq.core.specs import Effort
from edgeq.pipeline import BuildOptions, make_options, stages
from edgeq.pipeline.job import Job, prepare

ROOT = Path(__file__).parents[1]
RECORD = ROOT / "benchmarks" / "accuracy.json"
BITS = ("w8a8", "w4a8", "w4a4", "w3a3", "w2a4")
ROWS = (
    "w8a8/quick/edgeq",
    *(f"{bits}/standard/edgeq" for bits in BITS),
    "w8a8/standard/edgeq@cpu",
    *(f"{bits}/standard/noise" for bits in BITS[:4]),
    *(f"{bits}/standard/edgeq@teacher" for bits in BITS[:3]),
    *(f"{bits}/standard/edgeq@folded" for bits in BITS[:3]),
    *(f"{bits}/standard/noise@folded" for bits in BITS[:3]),
)
# What the project asks of the mean drop, in points of top-1, and of one run's wall time, in seconds.
LIMITS = {
    "w8a8/quick/edgeq": (0.3, 90),
    "w8a8/standard/edgeq": (0.05, 720),
    "w8a8/standard/edgeq@cpu": (0.05, 720),
    "w4a8/standard/edgeq": (0.2, 720),
    "w4a4/standard/edgeq": (0.5, 720),
    "w3a3/standard/edgeq": (2.5, 720),
    "w2a4/standard/edgeq": (6.0, 720),
    "w8a8/standard/edgeq@folded": (0.4, None),
    "w4a8/standard/edgeq@folded": (1.0, None),
    "w4a4/standard/edgeq@folded": (1.5, None),
}


def main() -> None:
    if "--table" in sys.argv[1:]:
        from table import main as measure_table

        measure_table([item for item in sys.argv[1:] if item != "--table"])
        return
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument(
        "--rows", nargs="+", default=list(ROWS), help="BITS/EFFORT/RECIPE[@folded|@teacher|@cpu]"
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument(
        "--set", nargs="*", default=[], metavar="KEY=VALUE", help="figures to try; not recorded"
    )
    add_fixtures(parser)
    parser.add_argument("--again", action="store_true", help="measure rows that are on record anew")
    options = parser.parse_args()
    cifar10 = cifar10_of(options)
    settings = dict(item.split("=", 1) for item in options.set)
    record = read_json(RECORD) if RECORD.exists() else {}
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(cifar10, Path(folder), settings)
        for seed in options.seeds:
            for row in options.rows:
                run = record.get(row, {}).get(str(seed))
                if not settings and not options.again and is_current(row, run):
                    continue
                figures = bench.run(row, seed)
                print(f"{row:24s} seed {seed}: {figures}", flush=True)
                if not settings:
                    record.setdefault(row, {})[str(seed)] = figures
                    write_json(RECORD, record)
    if not settings:
        write_page()


class Bench:
    """Runs rows; keeps sample sets and the float accuracy between them."""

    def __init__(self, fixtures: Path, folder: Path, settings: dict[str, str]) -> None:
        self._fixtures = fixtures
        self._pictures = fixtures / "test.zip"
        self._folder = folder
        self._settings = settings
        self._sets: dict[tuple[str, ...], tuple[Path, float]] = {}
        self._float: float | None = None

    def run(self, row: str, seed: int) -> dict[str, Any]:
        """Return the figures of one row and seed."""
        path, _, variant = row.partition("@")
        bits, effort, recipe = path.split("/")
        started = time.monotonic()
        job = prepare(self._options(bits, effort, recipe, variant, seed))
        made, samples_s = self._samples(job, effort, f"{recipe}@{variant}", seed, started)
        started = time.monotonic()
        folder = self._folder / f"{row.replace('/', '-')}-{seed}"
        samples = SampleSet.load(made / "samples")
        stages.make_values(job, samples, folder, NoProgress())
        stages.write_model(job, samples, folder, NoProgress())
        wall_s = samples_s + time.monotonic() - started
        drop, top1 = self._drop(job, folder)
        shutil.rmtree(folder)
        return {
            "top1_pct": round(top1, 2),
            "drop_points": round(drop, 2),
            "wall_s": round(wall_s, 1),
            "synthesis_s": round(samples_s, 1),
            "stamp": _stamp(row, job.recipe.data),
            "commit": tell_commit(),
            "load": round(os.getloadavg()[0], 1),
            "machine": f"{platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads used",
            "versions": f"edgeq {edgeq.__version__}, torch {torch.__version__}, "
            f"onnxruntime {onnxruntime.__version__}, numpy {np.__version__}, onnx {onnx.__version__}",
        }

    def _samples(
        self, job: Job, effort: str, recipe: str, seed: int, started: float
    ) -> tuple[Path, float]:
        """Return the folder of the sample set and the seconds that everything up to it took."""
        key = (effort, recipe, str(seed))
        if key not in self._sets:
            folder = self._folder / "-".join(key)
            stages.make_samples(job, folder, NoProgress())
            self._sets[key] = folder, time.monotonic() - started
        return self._sets[key]

    def _drop(self, job: Job, folder: Path) -> tuple[float, float]:
        models: dict[str, Any] = {"quantized": folder / "model.qdq.onnx"}
        if self._float is None:
            models["float"] = job.loaded.model
        found = evaluate_top1(models, self._pictures, job.input.spec)
        if "float" in found:
            self._float = found["float"].top1_pct
        assert self._float is not None
        return self._float - found["quantized"].top1_pct, found["quantized"].top1_pct

    def _options(
        self, bits: str, effort: str, recipe: str, variant: str, seed: int
    ) -> BuildOptions:
        folded = variant in {"folded", "teacher"}
        return make_options(
            self._fixtures / ("resnet20_folded.onnx" if folded else "resnet20_bn.onnx"),
            teacher=self._state_dict() if variant == "teacher" else None,
            target="cpu" if variant == "cpu" else "jetson-orin",
            bits=bits,
            effort=effort,
            seed=seed,
            out=self._folder / "out",
            recipe=recipe,
            preset="imagenet",
            settings=self._settings,
        )

    def _state_dict(self) -> Path:
        """Return a file with the network's parameters before folding, as PyTorch names them."""
        path = self._folder / "before_folding.safetensors"
        if not path.exists():
            model = onnx.load(self._fixtures / "resnet20_bn.onnx")
            save_file(state_dict_of(model), path)
        return path


def state_dict_of(model: onnx.ModelProto) -> dict[str, NDArray[Any]]:
    """Return the parameters of the layers of `model` that have any, under numbered module names."""
    arrays = {item.name: numpy_helper.to_array(item) for item in model.graph.initializer}
    parts = {
        "Conv": ("weight", "bias"),
        "Gemm": ("weight", "bias"),
        "BatchNormalization": ("weight", "bias", "running_mean", "running_var"),
    }
    return {
        f"module{index}.{part}": np.ascontiguousarray(arrays[name])
        for index, node in enumerate(model.graph.node)
        if node.op_type in parts
        for part, name in zip(parts[node.op_type], node.input[1:], strict=False)
    }


def is_current(row: str, run: dict[str, Any] | None) -> bool:
    """Return true if `run` was measured with the figures that the recipe of `row` has now."""
    path, _, variant = row.partition("@")
    recipe = load_recipe(path.split("/")[2])
    data = recipe.data
    if variant == "folded" and recipe.without_statistics:
        data = recipe.without_statistics
    return run is not None and run.get("stamp") == _stamp(row, data)


def _stamp(row: str, data: str) -> str:
    """Return the stamp of a row on samples of the recipe `data`."""
    bits, effort, name = row.partition("@")[0].split("/")
    numbers = load_recipe(name).numbers
    return stamp_row(data, numbers, setting="deploy", bits=bits, effort=Effort(effort))


# What a row's variant means, by its name.
VARIANTS = {
    "@folded": (
        "Rows with `@folded` are of `resnet20_folded.onnx` with nothing beside it; those with `@teacher` of the same",
        "file and a state dict of the network before folding.",
    ),
    "@cpu": (
        "Rows with `@cpu` are of `--target cpu`: its activations are unsigned, so what is behind a ReLU has 255 steps;",
        "TensorRT's are signed and have 127.",
    ),
}


def page(record: dict[str, Any]) -> str:
    """Return the part on accuracy of docs/results.md, with its title."""
    lines = [
        "# Results",
        "",
        "Made by `benchmarks/accuracy.py`; no figure is typed by hand. ResNet-20 on CIFAR-10 (`resnet20_bn.onnx` of",
        "the fixtures, 88.52 % in FP32), first and last layer at 8 bits, and what the first one makes, as BRECQ and",
        "Genie have it; every quantized tensor in the file (placement of `jetson-orin`), evaluated once after the last",
        "training step by ONNX Runtime on the 10,000 test pictures. The pictures and their labels are seen by the",
        "evaluation only. Drop is in points of top-1; wall time is one whole build without the evaluation. The `noise`",
        "rows train on Gaussian noise instead of synthetic samples.",
        *(
            line
            for variant, lines in VARIANTS.items()
            if any(variant in row for row in record)
            for line in lines
        ),
        "A drop with * was measured when the recipe had other figures, or the grids other widths. *Commit* is that of",
        "the code; rows without are older than 69f5bd98f8, which searches first scales on values from everywhere in a",
        "tensor, and not on every n-th one.",
        "",
        "| bits / effort / recipe | drop, mean | each seed | limit | wall s, mean (max) | limit | commit |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in [
        *(row for row in ROWS if row in record),
        *(row for row in record if row not in ROWS),
    ]:
        runs = [record[row][seed] for seed in sorted(record[row])]
        drops = [run["drop_points"] for run in runs]
        walls = [run["wall_s"] for run in runs]
        commits = sorted({run.get("commit", "") for run in runs} - {""})
        limit = LIMITS.get(row, (None, None))
        each = ", ".join(
            f"{run['drop_points']:.2f}{'' if is_current(row, run) else '*'}" for run in runs
        )
        lines.append(
            f"| {row.replace('/', ' / ')} | {statistics.mean(drops):.2f} | {each} | "
            f"{tell_limit(limit[0], statistics.mean(drops))} | {statistics.mean(walls):.0f} ({max(walls):.0f}) | "
            f"{tell_limit(limit[1], max(walls), 0)} | {', '.join(commits) or '-'} |"
        )
    machines = sorted({run["machine"] for runs in record.values() for run in runs.values()})
    versions = sorted({run["versions"] for runs in record.values() for run in runs.values()})
    lines += ["", f"Machine: {'; '.join(machines)}. Versions: {'; '.join(versions)}.", ""]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
