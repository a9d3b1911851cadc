"""Run the two halves of a recipe inside a budget of seconds; for benchmarks/table.py.

Seconds of a budget are processor seconds of one thread: what the clock shows on a core that nobody else uses. Both are
on record. Sample sets are kept in a folder between rows and between processes, with what making them cost.
"""

from __future__ import annotations

import dataclasses
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from budgets import (
    Cut,
    Line,
    cap_data,
    cut_data,
    cut_numbers,
    data_work,
    fit_line,
    numbers_work,
)
from meters import Usage, metered
from paper import as_in_papers
from published import own_settings

from edgeq.core.files import digest_file, read_json, write_json
from edgeq.core.recipes import Recipe, load_recipe
from edgeq.core.samples import SampleSet
from edgeq.core.serial import digest_of
from edgeq.core.specs import Effort
from edgeq.pipeline import make_options, stages
from edgeq.pipeline.job import Job, prepare

ROOT = Path(__file__).parents[1]
# What a data half gets of the budget; a recipe that has both halves has its own proportion.
DATA_SHARE = 0.5
# A second short run takes about this long, so that its seconds are more than noise.
PROBE_S = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """Seconds of a row, and what is fitted into them.

    Attributes:
        own: false: the recipe's figures are cut or stretched to `seconds`. True: the published figures, cut where they
            would take longer.
    """

    seconds: float
    own: bool = False

    def __str__(self) -> str:
        return "own" if self.own else f"{self.seconds:g}"


class Halves:
    """Makes sample sets and numbers for one network; remembers how fast each loop is."""

    def __init__(self, model: Path, keep: Path) -> None:
        self._model = model
        self._keep = keep
        self._lines: dict[tuple[object, ...], Line] = {}
        sources = sorted((ROOT / "calib").glob("*.py"))
        self._sources = digest_of([digest_file(path) for path in (*sources, model)])

    def prepare(
        self, recipe: str, bits: str, seed: int, *, setting: str, settings: dict[str, str]
    ) -> Job:
        """Return the job of a build with one place of the quantizers."""
        job = prepare(
            make_options(
                self._model,
                target="jetson-orin",
                bits=bits,
                seed=seed,
                out=self._keep / "out",
                recipe=recipe,
                preset="imagenet",
                settings=settings,
                device="cpu",  # its seconds are what a budget counts
            )
        )
        return as_in_papers(job) if setting == "paper" else job

    def make_samples(self, data: str, seed: int, budget: Budget) -> tuple[Path, dict[str, Any]]:
        """Return the folder of a sample set, made now or before, and what it cost."""
        figures = [self._effort(data, effort).to_dict() for effort in Effort]
        name = digest_of([data, seed, str(budget), budget.seconds, figures, self._sources])
        folder = self._keep / f"{data}-{seed}-{budget}-{name}"
        if not folder.exists():
            self._keep.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=self._keep) as scratch:
                made = self._synthesize(data, seed, budget, Path(scratch))
                if not folder.exists():  # another process may have been quicker
                    shutil.move(made, folder)
        return folder / "samples", read_json(folder / "facts.json")

    def make_numbers(
        self,
        recipe: Recipe,
        samples: Path,
        folder: Path,
        budget: Budget,
        left_s: float,
        *,
        bits: str,
        setting: str,
        seed: int,
    ) -> tuple[Job, Cut, Usage]:
        """Write the numbers that `recipe` finds on `samples` in `left_s` seconds to `folder`."""
        own = own_settings(recipe.numbers) if budget.own else {}
        full = load_recipe(recipe.name, settings=own)

        def job_of(settings: dict[str, str]) -> Job:
            return self.prepare(
                recipe.name, bits, seed, setting=setting, settings={**own, **settings}
            )

        line = self._numbers_line(full, samples, folder, job_of, setting)
        cut = cut_numbers(full, line, left_s, most=budget.own)
        job = job_of(cut.settings)
        with metered(job.teacher.module) as usage:
            stages.make_values(job, SampleSet.load(samples), folder)
        return job, cut, usage

    def _synthesize(self, data: str, seed: int, budget: Budget, scratch: Path) -> Path:
        """Make a sample set in a subfolder of `scratch`, and return that."""
        line = self._data_line(data, seed, scratch)
        if budget.own:
            own = load_recipe(data, settings=own_settings(data)).synthesis
            cut = cap_data(own, line, budget.seconds * DATA_SHARE)
        else:
            efforts = [self._effort(data, effort) for effort in Effort]
            seconds = budget.seconds * self._data_share(data, line, scratch)
            cut = cut_data(efforts, self._effort(data), line, seconds)
        job = self.prepare(data, "w4a4", seed, setting="deploy", settings=cut.settings)
        made = scratch / "made"
        with metered(job.teacher.module) as usage:
            stages.make_samples(job, made)
        facts = {**dataclasses.asdict(usage), "settings": cut.settings, "scale": cut.scale}
        write_json(made / "facts.json", facts)
        return made

    def _effort(self, data: str, effort: Effort = Effort.STANDARD) -> Any:
        return load_recipe(data, effort=effort).synthesis

    def _data_line(self, data: str, seed: int, scratch: Path) -> Line:
        """Return the seconds of a data half by its work, from two short runs; the last one stays in `scratch`."""
        base = self._effort(data, Effort.QUICK)

        def run(iterations: int) -> tuple[float, float]:
            share = iterations / base.iterations
            settings = {
                "synthesis.samples": str(base.samples),
                "synthesis.iterations": str(iterations),
                "synthesis.centre_iterations": str(max(1, round(base.centre_iterations * share))),
            }
            job = self.prepare(data, "w4a4", seed, setting="deploy", settings=settings)
            with metered(job.teacher.module) as usage:
                stages.make_samples(job, scratch / "probe")
            return data_work(job.recipe.synthesis), usage.cpu_s

        key = ("data", data)
        if key not in self._lines:
            self._lines[key] = _probe(run) if data_work(base) else Line(start=run(1)[1], each=1.0)
        elif not (scratch / "probe").exists():
            run(1)
        return self._lines[key]

    def _data_share(self, data: str, line: Line, scratch: Path) -> float:
        """Return the share of the budget for the data half of a recipe."""
        recipe = load_recipe(data)
        if recipe.numbers != data:
            return DATA_SHARE

        def job_of(settings: dict[str, str]) -> Job:
            return self.prepare(data, "w4a4", 0, setting="deploy", settings=settings)

        samples = scratch / "probe" / "samples"
        numbers = self._numbers_line(recipe, samples, scratch / "numbers", job_of, "deploy")
        seconds = line.seconds(data_work(recipe.synthesis))
        return seconds / (seconds + numbers.seconds(numbers_work(recipe)))

    def _numbers_line(
        self,
        recipe: Recipe,
        samples: Path,
        folder: Path,
        job_of: Callable[[dict[str, str]], Job],
        setting: str,
    ) -> Line:
        """Return the seconds of a numbers half by its work, from two short runs."""
        kinds = {
            "training.steps": recipe.training.steps,
            "reconstruction.iterations": recipe.reconstruction.iterations,
        }
        loops = [key for key, count in kinds.items() if count]
        found = SampleSet.load(samples)
        count = len(found) if recipe.reconstruction.iterations else 0
        key = ("numbers", recipe.numbers, recipe.training.batch, count, setting)

        def run(steps: int) -> tuple[float, float]:
            job = job_of(dict.fromkeys(loops, str(steps)))
            with metered(job.teacher.module) as usage:
                stages.make_values(job, found, folder)
            return steps * len(loops), usage.cpu_s

        if key not in self._lines:
            self._lines[key] = _probe(run) if loops else Line(start=0.0, each=1.0)
        return self._lines[key]


def _probe(run: Callable[[int], tuple[float, float]]) -> Line:
    """Return the seconds by work of `run`, which is told how many steps to take."""
    _, seconds = run(2)  # the first one also warms libraries up
    more = 2 + min(max(4, round(PROBE_S / (seconds / 2))), 20)
    return fit_line(run(2), run(more))
