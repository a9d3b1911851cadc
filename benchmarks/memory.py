"""Measure how much memory training and reconstruction hold at two sizes of the sample set.

    python benchmarks/memory.py                                  # the digits example, 256 against 4,096 samples
    python benchmarks/memory.py --counts 1024 16384

What is measured is the process's own memory at its highest (RssAnon of Linux). Pages of files, which the system takes
back when it needs them, are not counted: samples and features lie in such files. Prints JSON.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from calib.unoptimised import draw_leaves
from edgeq.core.recipes import load_recipe
from edgeq.core.samples import SampleSet
from edgeq.pipeline import make_options
from edgeq.pipeline.job import Job, prepare
from edgeq.quant.numbers import find_numbers

ROOT = Path(__file__).parents[1]
STEPS = 3


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--counts", nargs=2, type=int, default=[256, 4096])
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = ROOT / "examples" / "digits" / "digits_bn.onnx"
    job = prepare(make_options(model, target="cpu", bits="w4a4", preset="unit", out=Path("unused")))
    with tempfile.TemporaryDirectory() as folder:
        sets = {count: Path(folder) / str(count) for count in options.counts}
        for count, path in sets.items():
            write_samples(job, count, path)
        run(job, sets[options.counts[0]])  # what is only made once
        peaks = {count: run(job, path) for count, path in sets.items()}
    shape = job.specs[0].shape
    print(json.dumps({"model": model.name, "shape": shape, "peaks_mb": peaks}))


def write_samples(job: Job, count: int, folder: Path) -> None:
    """Write `count` samples of dead leaves."""
    few = draw_leaves(job.specs, count=64, seed=0).samples
    samples = SampleSet(
        input_name=job.specs[0].name,
        samples=few.repeat(count // len(few), 0),
        labels=torch.arange(count).remainder(job.classes or 1).numpy(),
        provenance={},
    )
    samples.save(folder)


def run(job: Job, folder: Path) -> float:
    """Return how many MB reconstruction and training of some steps held at most, beyond what was held before."""
    recipe = load_recipe("genie-m")
    recipe = dataclasses.replace(
        recipe,
        reconstruction=dataclasses.replace(recipe.reconstruction, iterations=STEPS),
        training=dataclasses.replace(job.recipe.training, steps=STEPS, range_samples=64),
    )
    with highest_memory() as found:
        samples = SampleSet.load(folder)
        find_numbers(job.training_problem(samples), recipe, seed=0)
    return round(found[-1], 1)


@contextmanager
def highest_memory() -> Iterator[list[float]]:
    """Yield a list whose last entry is, after the block, the highest memory during it in MB, beyond that before it."""
    before, highest, done = anonymous_mb(), [0.0], threading.Event()

    def watch() -> None:
        while not done.wait(0.002):
            highest[0] = max(highest[0], anonymous_mb() - before)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield highest
    finally:
        done.set()
        thread.join()


def anonymous_mb() -> float:
    """Return the memory of this process that is no page of a file."""
    status = Path("/proc/self/status").read_text()
    (line,) = [item for item in status.splitlines() if item.startswith("RssAnon")]
    return int(line.split()[1]) / 1024


if __name__ == "__main__":
    main()
