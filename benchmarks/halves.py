"""Run the two halves of a recipe inside a budget of seconds; for benchmarks/table.py.

Seconds of a budget are processor seconds of one thread: what the clock shows on a core that nobody else uses. How many
steps they are is on record (costs.py), and so is what they took in the end, which is more on a busy machine. Sample
sets are kept in a folder between rows and between processes, with what making them cost.
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
    numbers_work,
)
from costs import Costs, time_line
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
    """Makes sample sets and numbers for one network."""

    def __init__(self, model: Path, keep: Path, costs: Costs) -> None:
        self._model = model
        self._keep = keep
        self._costs = costs
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
        facts = {
            **dataclasses.asdict(usage),
            "planned_s": line.seconds(data_work(job.recipe.synthesis)),
            "settings": cut.settings,
            "scale": cut.scale,
        }
        write_json(made / "facts.json", facts)
        return made

    def _effort(self, data: str, effort: Effort = Effort.STANDARD) -> Any:
        return load_recipe(data, effort=effort).synthesis

    def _data_line(self, data: str, seed: int, scratch: Path) -> Line:
        """Return the seconds of a data half by its work."""
        base = self._effort(data, Effort.QUICK)

        def run(iterations: int) -> tuple[float, float]:
            return self._make_probe(data, seed, iterations, scratch)

        def measure() -> Line:
            return time_line(run) if data_work(base) else Line(start=run(1)[1], each=1.0)

        return self._costs.line(f"data/{data}", base.digest(), measure)

    def _make_probe(
        self, data: str, seed: int, iterations: int, scratch: Path
    ) -> tuple[float, float]:
        """Make a few samples in a subfolder of `scratch`; return their work and seconds."""
        base = self._effort(data, Effort.QUICK)
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

    def _data_share(self, data: str, line: Line, scratch: Path) -> float:
        """Return the share of the budget for the data half of a recipe."""
        recipe = load_recipe(data)
        if recipe.numbers != data:
            return DATA_SHARE

        def job_of(settings: dict[str, str]) -> Job:
            return self.prepare(data, "w4a4", 0, setting="deploy", settings=settings)

        samples = scratch / "probe" / "samples"
        if not samples.exists():
            self._make_probe(data, 0, 1, scratch)
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
        """Return the seconds of a numbers half by its work."""
        kinds = {
            "training.steps": recipe.training.steps,
            "reconstruction.iterations": recipe.reconstruction.iterations,
        }
        loops = [key for key, count in kinds.items() if count]
        if not loops:
            return Line(start=0.0, each=1.0)
        found = SampleSet.load(samples)
        name = f"numbers/{recipe.numbers}/{setting}"
        if recipe.reconstruction.iterations:  # which first writes the features of every sample
            name += f"/{len(found)}"

        def run(steps: int) -> tuple[float, float]:
            job = job_of(dict.fromkeys(loops, str(steps)))
            with metered(job.teacher.module) as usage:
                stages.make_values(job, found, folder)
            return steps * len(loops), usage.cpu_s

        figures = {key: value for key, value in recipe.tables().items() if key != "synthesis"}
        return self._costs.line(name, digest_of(figures), lambda: time_line(run))
