"""Sample sets from a teacher alone: pixels are optimised until the teacher's statistics look like training data.

Main entry: `synthesize`. `calib.pixels` is the loop, `calib.terms` the loss, `calib.view` what the teacher is shown.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from calib.pixels import PixelLoop
from calib.problem import SynthesisProblem, collect_samples, no_statistics
from calib.units import standardise
from calib.unoptimised import take_unoptimised
from edgeq.core.progress import NoProgress, Progress
from edgeq.core.recipes import SynthesisSpec
from edgeq.core.samples import SampleSet


def synthesize(
    problem: SynthesisProblem,
    spec: SynthesisSpec,
    *,
    seed: int,
    progress: Progress | None = None,
) -> SampleSet:
    """Return a seeded, class-balanced sample set.

    Args:
        problem: teacher, statistics and input.
        spec: figures of the recipe.
        seed: of the build; the same seed gives the same samples on the same machine and versions.
        progress: told the loss at every step.

    Returns:
        samples: `spec.samples` rounded up to whole batches, [N, *shape] an input, of its type, inside the legal box.
        labels: classes in turn, or None where the output is no classifier.
        history: the terms at each iteration, means over the batches; empty where nothing is optimised.

    Raises:
        CalibError: if the recipe needs statistics and there are none, or if the loss stops being finite.
    """
    progress = progress or NoProgress()
    teacher, units = standardise(problem.teacher, problem.inputs)
    problem = dataclasses.replace(
        problem, teacher=teacher, inputs=tuple(unit.standard for unit in units)
    )
    batches = math.ceil(spec.samples / spec.batch)
    if spec.source != "optimise":
        return take_unoptimised(problem, units, spec, batches, seed=seed, progress=progress)
    if not problem.table.entries and spec.targets == "recorded":
        raise no_statistics()
    if not problem.table.entries and (problem.classes is None or spec.label == 0):
        spec = dataclasses.replace(spec, source=spec.start)
        return take_unoptimised(problem, units, spec, batches, seed=seed, progress=progress)
    loop = PixelLoop(problem, spec, seed=seed)
    progress.start("synthesize", batches * spec.iterations, "step")
    samples: list[list[Tensor]] = []
    labels: list[Tensor] = []
    histories: list[list[dict[str, float]]] = []
    for index in range(batches):
        wanted = loop.labels(index)
        x, history = loop.run(index, wanted, progress)
        samples.append(x)
        labels.append(wanted)
        histories.append(history)
    classes = torch.cat(labels) if problem.classes is not None else None
    terms = histories[-1][-1]
    result = collect_samples(units, samples, classes, spec, seed, terms, _mean_history(histories))
    told = ", ".join(f"{name} {value:.3g}" for name, value in terms.items())
    progress.finish(f"{len(result)} samples, {told}")
    return result


def _mean_history(histories: Sequence[Sequence[dict[str, float]]]) -> list[dict[str, float]]:
    """Return the terms at each iteration and their sum, means over the batches."""
    means = []
    for step, entries in enumerate(zip(*histories, strict=True)):
        terms = {
            name: math.fsum(item[name] for item in entries) / len(entries) for name in entries[0]
        }
        means.append({"step": float(step), **terms, "loss": math.fsum(terms.values())})
    return means
