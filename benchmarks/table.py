"""Measure every recipe at the same seconds, in both evaluation settings: `benchmarks/accuracy.py --table`.

    EDGEQ_FIXTURES=../shared/data OMP_NUM_THREADS=1 python benchmarks/accuracy.py --table
    ... --table --rows edgeq genie+genie-m --bits w4a4 --settings deploy --seeds 0 --budget 60
    ... --table --budget own --cap 300        # the published figures, cut where they would take longer than 300 s

Settings: `deploy` is what `edgeq build` writes for jetson-orin (first and last layer, and what the first makes, at 8
bits), evaluated by ONNX Runtime with graph optimisation off; `paper`: see benchmarks/paper.py. All test pictures, once,
after the last step.

Budget: every row has the same processor seconds of one thread. Half of them are for the samples (edgeq divides them as
its standard effort does), and the numbers have what is left. Short runs told once how many iterations and steps that is
(costs.py); ranges alone end early. Samples are made once for a data recipe, seed and budget, and their cost counts in
every row.

One process, one thread. Several processes may run at once; each figure is on record when it is printed. What is on
record is skipped, unless the figures of its recipe have changed since: each has a stamp of them (table_rows.py). The
page, its picture and what `edgeq recipes` tells are written at the end (results_page.py).
"""

from __future__ import annotations

import argparse
import os
import platform
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from costs import Costs
from fixtures import add_fixtures, cifar10_of
from halves import Budget, Halves
from numpy.typing import NDArray
from results_page import write_page
from table_record import add_record, is_recorded
from table_rows import BITS, ROOT, SETTINGS, all_rows, name_row, stamp_row, tell_commit

import edgeq
from deploy.onnxrt import Session
from deploy.pictures import open_pictures
from edgeq.core.files import digest_file, write_with
from edgeq.core.recipes import Recipe, load_recipe
from edgeq.core.samples import SampleSet
from edgeq.pipeline import stages
from edgeq.pipeline.job import Job
from edgeq.quant.storage import load_values
from edgeq.quant.student import Student
from edgeq.teacher.teacher import Teacher

RECORD = ROOT / "benchmarks" / "table.json"
# Pictures that are evaluated together.
BATCH = 64

Classes = NDArray[np.int64]
Classify = Callable[[NDArray[np.float32]], Classes]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rows", nargs="+", default=list(all_rows()), metavar="RECIPE")
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    parser.add_argument("--bits", nargs="+", default=list(BITS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--budget", nargs="+", default=["60"], help="seconds of a row, or `own`")
    parser.add_argument("--cap", type=float, default=300.0, help="seconds of a row of `own`")
    add_fixtures(parser)
    parser.add_argument("--record", type=Path, default=RECORD)
    parser.add_argument(
        "--keep",
        type=Path,
        default=Path(tempfile.gettempdir()) / "edgeq-table",
        help="folder of the sample sets",
    )
    parser.add_argument("--again", action="store_true", help="measure rows that are on record anew")
    options = parser.parse_args(arguments)
    cifar10 = cifar10_of(options)
    torch.set_num_threads(1)
    commit = tell_commit()
    costs = Costs(options.record.with_name("costs.json"))
    bench = TableBench(cifar10, options.keep, costs)
    queue = [
        (setting, bits, name, seed, budget)
        for budget in (read_budget(text, options.cap) for text in options.budget)
        for seed in options.seeds
        for bits in options.bits
        for name in options.rows
        for setting in options.settings
    ]
    for setting, bits, name, seed, budget in queue:
        recipe = load_recipe(name)
        row = name_row(recipe, setting=setting, bits=bits, budget=str(budget))
        stamp = stamp_row(recipe.data, recipe.numbers, setting=setting, bits=bits)
        if options.again or not is_recorded(options.record, row, seed, stamp):
            figures = bench.run(recipe, bits, setting, seed, budget)
            add_record(options.record, row, seed, {**figures, "stamp": stamp, "commit": commit})
            print(f"{row} seed {seed}: {tell(figures)}", flush=True)
    if options.record == RECORD:
        write_page()


def read_budget(text: str, cap: float) -> Budget:
    """Return the budget that a word of the command line stands for."""
    return Budget(seconds=cap, own=True) if text == "own" else Budget(seconds=float(text))


def tell(figures: dict[str, Any]) -> str:
    """Return the figures of a row in one line."""
    return (
        f"drop {figures['drop_points']:.2f}, {figures['data_s']:.1f} + {figures['numbers_s']:.1f} s, "
        f"{figures['teacher_forward']:.0f} passes, {figures['peak_mb']:.0f} MB, "
        f"scales {figures['data_scale']:.3g} and {figures['numbers_scale']:.3g}"
    )


class TableBench:
    """Runs rows; keeps sample sets, pictures and the float accuracy between them."""

    def __init__(self, fixtures: Path, keep: Path, costs: Costs) -> None:
        self._archive = fixtures / "test.zip"
        self._keep = keep
        self._halves = Halves(fixtures / "resnet20_bn.onnx", keep, costs)
        self._float: Classes | None = None

    def run(
        self, recipe: Recipe, bits: str, setting: str, seed: int, budget: Budget
    ) -> dict[str, Any]:
        """Return the figures of one row."""
        made, data = self._halves.make_samples(recipe.data, seed, budget)
        left_s = budget.seconds - data["planned_s"]
        with tempfile.TemporaryDirectory(dir=self._keep) as scratch:
            folder = Path(scratch)
            job, cut, numbers = self._halves.make_numbers(
                recipe, made, folder, budget, left_s, bits=bits, setting=setting, seed=seed
            )
            samples = SampleSet.load(made)
            found = self._evaluate(job, samples, folder, setting)
        if self._float is None:
            self._float = self._classes(job, _in_torch(job.teacher))
        labels = self._pictures(job)[1]
        top1, float_top1 = percent(found == labels), percent(self._float == labels)
        return {
            "top1_pct": round(top1, 2),
            "drop_points": round(float_top1 - top1, 2),
            "changed_pct": round(percent(found != self._float), 2),
            "wall_s": round(data["wall_s"] + numbers.wall_s, 1),
            "cpu_s": round(data["cpu_s"] + numbers.cpu_s, 1),
            "data_s": round(data["cpu_s"], 1),
            "numbers_s": round(numbers.cpu_s, 1),
            "teacher_forward": round(data["forward"] + numbers.forward),
            "teacher_backward": round(data["backward"] + numbers.backward),
            "peak_mb": round(max(data["peak_mb"], numbers.peak_mb)),
            "budget_s": budget.seconds,
            "samples": len(samples),
            "settings": {**data["settings"], **cut.settings},
            "data_scale": round(data["scale"], 4),
            "numbers_scale": round(cut.scale, 4),
            **_circumstances(),
        }

    def _evaluate(self, job: Job, samples: SampleSet, folder: Path, setting: str) -> Classes:
        """Return the class that what lies in `folder` gives each test picture."""
        if setting == "paper":
            values = load_values(folder / "trained.safetensors")
            student = Student.from_values(job.student_teacher, job.plan, values)
            return self._classes(job, _in_torch(student.teacher))
        stages.write_model(job, samples, folder)
        return self._classes(job, _in_onnxruntime(folder / "model.qdq.onnx", job))

    def _classes(self, job: Job, classify: Classify) -> Classes:
        pixels, _ = self._pictures(job)
        return np.concatenate(
            [classify(pixels[i : i + BATCH]) for i in range(0, len(pixels), BATCH)]
        )

    def _pictures(self, job: Job) -> tuple[NDArray[np.float32], Classes]:
        """Return the test pictures as the model takes them, decoded once and then read from disk."""
        spec = job.input.spec
        folder = self._keep / f"pictures-{digest_file(self._archive)[:16]}-{spec.digest()}"
        if not (folder / "labels.npy").exists():
            with open_pictures(self._archive) as pictures:
                parts = list(pictures.batches(spec, BATCH))
            for name, arrays in zip(("pixels", "labels"), zip(*parts, strict=True), strict=True):
                array = np.concatenate(arrays)
                write_with(folder / f"{name}.npy", lambda file, array=array: np.save(file, array))  # type: ignore[misc]
        return np.load(folder / "pixels.npy", mmap_mode="r"), np.load(folder / "labels.npy")


def _in_torch(network: Teacher) -> Classify:
    def classify(x: NDArray[np.float32]) -> Classes:
        with torch.inference_mode():
            scores = network.module(torch.from_numpy(np.array(x)))[0]
        found: Classes = scores.argmax(1).numpy()
        return found

    return classify


def _in_onnxruntime(path: Path, job: Job) -> Classify:
    session = Session(path, threads=1)

    def classify(x: NDArray[np.float32]) -> Classes:
        found: Classes = session.run({job.input.spec.name: x})[session.outputs[0]].argmax(1)
        return found

    return classify


def percent(mask: NDArray[np.bool_]) -> float:
    """Return how many of `mask` are true, in percent."""
    return 100 * float(mask.mean())


def _circumstances() -> dict[str, Any]:
    """Return where and with what a row was measured."""
    return {
        "load": round(os.getloadavg()[0], 1),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads used",
        "versions": f"edgeq {edgeq.__version__}, torch {torch.__version__}, "
        f"onnxruntime {onnxruntime.__version__}, numpy {np.__version__}, onnx {onnx.__version__}",
    }
