"""Budgets of benchmarks/table.py: how many steps fit into given seconds, and which figures of a recipe ask for them.

A loop costs a + b w seconds for w units of work: batches times iterations in the data half, training steps or
iterations a unit in the numbers half. Two short runs give a and b (`fit_line`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from edgeq.core.recipes import Recipe, SynthesisSpec

# Samples that a data half is stretched to at most, before its iterations are: QAT methods of the literature have 5,120.
MOST_SAMPLES = 5120


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """Seconds as a function of work.

    Attributes:
        start: seconds without any.
        each: seconds a unit of work, > 0.
    """

    start: float
    each: float

    def seconds(self, work: float) -> float:
        """Return how long `work` takes."""
        return self.start + self.each * work

    def work(self, seconds: float) -> float:
        """Return how much work fits into `seconds`; 0 if the start takes longer."""
        return max(0.0, (seconds - self.start) / self.each)


def fit_line(first: tuple[float, float], second: tuple[float, float]) -> Line:
    """Return the line through two points (work, seconds); a start below 0, which noise makes, is taken as 0."""
    (less, quick), (more, slow) = first, second
    each = max((slow - quick) / (more - less), 1e-6)
    start = quick - each * less
    return Line(start=start, each=each) if start > 0 else Line(start=0.0, each=slow / more)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """Figures that fit a budget.

    Attributes:
        settings: what --set is given.
        scale: their work against that of the recipe's standard effort.
    """

    settings: dict[str, str]
    scale: float


def data_work(spec: SynthesisSpec) -> int:
    """Return batches times iterations; 0 where nothing is optimised."""
    return batches(spec) * spec.iterations if spec.source == "optimise" else 0


def batches(spec: SynthesisSpec) -> int:
    """Return how many batches the samples are made in."""
    return math.ceil(spec.samples / spec.batch)


def numbers_work(recipe: Recipe) -> int:
    """Return training steps and iterations a unit, together; 0 for ranges alone."""
    return recipe.training.steps + recipe.reconstruction.iterations


def cut_data(
    efforts: Sequence[SynthesisSpec], own: SynthesisSpec, line: Line, seconds: float
) -> Cut:
    """Return the figures of a data half that takes `seconds`.

    The effort that is nearest to the budget is cut or stretched: cut in iterations, stretched in whole batches of
    samples up to `MOST_SAMPLES`, and then in iterations.

    Args:
        efforts: of the recipe.
        own: the one that the scale refers to.
        line: seconds by `data_work`.
        seconds: of the half.
    """
    if not data_work(own):
        return Cut(settings={}, scale=1.0)
    work = max(1.0, line.work(seconds))
    base = min(efforts, key=lambda spec: abs(math.log(data_work(spec) / work)))
    count = batches(base)
    if work > data_work(base):
        most = max(count, MOST_SAMPLES // base.batch)
        count = min(int(work // base.iterations), most)
    return _data_cut(base, own, count=count, iterations=max(1, int(work / count)))


def cap_data(own: SynthesisSpec, line: Line, seconds: float) -> Cut:
    """Return the figures of `own`, with fewer iterations where it would take longer than `seconds`."""
    if not data_work(own):
        return Cut(settings={}, scale=1.0)
    fitting = int(line.work(seconds) / batches(own))
    iterations = max(1, min(own.iterations, fitting))
    return _data_cut(own, own, count=batches(own), iterations=iterations)


def _data_cut(base: SynthesisSpec, own: SynthesisSpec, *, count: int, iterations: int) -> Cut:
    """Return `count` batches of `iterations` as settings; what else is counted in steps goes with them."""
    share = iterations / base.iterations
    settings = {
        "samples": count * base.batch,
        "batch": base.batch,
        "iterations": iterations,
        "patience": max(1, round(base.patience * share)),
        "centre_iterations": max(1, round(base.centre_iterations * share)),
    }
    return Cut(
        settings={f"synthesis.{key}": str(value) for key, value in settings.items()},
        scale=count * iterations / data_work(own),
    )


def cut_numbers(own: Recipe, line: Line, seconds: float, *, most: bool = False) -> Cut:
    """Return the figures of a numbers half that takes `seconds`; with `most`, or less where its own take less."""
    work = numbers_work(own)
    if not work:
        return Cut(settings={}, scale=1.0)
    scale = line.work(seconds) / work
    if most:
        scale = min(scale, 1.0)
    settings = {}
    if own.training.steps:
        settings["training.steps"] = str(max(1, int(own.training.steps * scale)))
    if own.reconstruction.iterations:
        iterations = max(1, int(own.reconstruction.iterations * scale))
        settings["reconstruction.iterations"] = str(iterations)
    return Cut(settings=settings, scale=sum(map(int, settings.values())) / work)
