"""Sample sets from a teacher alone: pixels are optimised until the teacher's statistics look like training data.

Main entry: `synthesize`. `calib.loop` is the loop, `calib.terms` the loss, `calib.view` what the teacher is shown.
"""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from calib.centres import count_steps, find_centres
from calib.loop import Loop
from calib.problem import SynthesisProblem, collect_samples, no_statistics
from calib.terms import Terms
from calib.units import standardise
from calib.unoptimised import answer, take_unoptimised, unoptimised_batches
from edgeq.core.checkpoints import NO_CHECKPOINTS, Checkpoint, Checkpoints
from edgeq.core.progress import NoProgress, Progress
from edgeq.core.recipes import SynthesisSpec
from edgeq.core.samples import Part, SampleSet
from edgeq.core.seeds import derive_seed
from edgeq.teacher.compute import Compute
from edgeq.teacher.world import ALONE, World

_LOG = logging.getLogger(__name__)

# Samples of a batch, one tensor an input, their classes, and the terms at each iteration.
_Batch = tuple[list[Tensor], Tensor, list[dict[str, float]]]


def synthesize(
    problem: SynthesisProblem,
    spec: SynthesisSpec,
    *,
    seed: int,
    progress: Progress | None = None,
    checkpoints: Checkpoints = NO_CHECKPOINTS,
) -> SampleSet:
    """Return a seeded, class-balanced sample set.

    Args:
        problem: teacher, statistics and input.
        spec: figures of the recipe.
        seed: of the build; the same seed gives the same samples on the same machine and versions.
        progress: told the loss at every step.
        checkpoints: where every batch is kept; those that are found there are not made again.

    Returns:
        samples: `spec.samples` rounded up to whole batches, and then the dead leaves that join them, so rounded too,
            [N, *shape] an input, of its type, inside the legal box.
        labels: classes in turn, or spread evenly where they are more than samples; the teacher's answers where the
            recipe asks for no classes; None where the output is no classifier.
        history: the terms at each iteration, means over the batches; empty where nothing is optimised.

    Raises:
        CalibError: if the recipe needs statistics and there are none, or if the loss stops being finite.
    """
    progress = progress or NoProgress()
    teacher, units = standardise(problem.teacher, problem.inputs)
    problem = dataclasses.replace(
        problem,
        teacher=teacher.on(problem.compute.device),
        inputs=tuple(unit.standard for unit in units),
    )
    batches = math.ceil(spec.samples / spec.batch)
    if spec.source != "optimise":
        return take_unoptimised(problem, units, spec, batches, seed=seed, progress=progress)
    if not problem.table.entries and spec.targets == "recorded":
        raise no_statistics()
    if not problem.table.entries and (problem.classes is None or not spec.wants_classes):
        source = "leaves" if spec.start == "leaves" else "noise"
        _LOG.warning(
            "the network has no convolution whose statistics could be estimated, so samples are %s that nothing moves",
            "dead leaves" if source == "leaves" else source,
        )
        spec = dataclasses.replace(spec, source=source)
        return take_unoptimised(problem, units, spec, batches, seed=seed, progress=progress)
    problem = dataclasses.replace(problem, compute=_settle(problem, seed))
    world = _sharing(problem, spec)
    extra = math.ceil(spec.samples * spec.leaves_per_sample / spec.batch)
    found = problem.compute.world.tell(_found(checkpoints, batches))
    left = batches - len(found)
    centre_steps = count_steps(problem, spec) if left else 0
    steps = world.rounds(left) * spec.iterations + centre_steps + extra
    progress.start("synthesize", steps, "step")
    centres = None
    if left:
        centres = find_centres(problem, spec, seed=seed, progress=progress, checkpoints=checkpoints)
    loop = Loop(problem, spec, Terms(problem, spec, seed=seed, centres=centres), seed=seed)

    def make(index: int) -> _Batch:
        wanted = _labels(problem, spec, index)
        x, history = loop.run(index, wanted, progress)
        return x, wanted if spec.wants_classes else answer(problem, x), history

    for index, (x, _, _) in enumerate(found):
        loop.keep(x, _labels(problem, spec, index))
    made = list(found)
    for batch in world.each(left, lambda index: make(len(found) + index)):
        if problem.compute.world.rank == 0:
            checkpoints.save(f"batch-{len(made)}", _as_checkpoint(batch))
        made.append(batch)
    samples, labels, histories = zip(*made, strict=True)
    more, answers = unoptimised_batches(
        problem, spec, "leaves", extra, seed=seed, progress=progress
    )
    samples = (*samples, *more)
    classes = None
    if problem.classes is not None:
        classes = torch.cat([*labels, answers] if answers is not None else labels)
    terms = histories[-1][-1]
    parts = (
        Part("optimised samples", batches * spec.batch),
        Part("dead leaves", extra * spec.batch),
    )
    result = collect_samples(
        *(units, samples, classes, spec, seed, terms, _mean_history(histories)),
        parts=parts if extra else (),
    )
    told = ", ".join(f"{name} {value:.3g}" for name, value in terms.items())
    kept = f", {len(found)} of {batches} batches from an interrupted run" if found else ""
    progress.finish(f"{len(result)} samples, {told}{kept}")
    return result


def _found(checkpoints: Checkpoints, batches: int) -> list[_Batch]:
    """Return the first batches, as many as an interrupted run has kept."""
    found: list[_Batch] = []
    while len(found) < batches:
        kept = checkpoints.load(f"batch-{len(found)}")
        if kept is None:
            break
        x = [torch.from_numpy(item) for _, item in sorted(kept.part("inputs").items())]
        found.append((x, torch.from_numpy(kept.arrays["labels"]), kept.notes["history"]))
    return found


def _as_checkpoint(batch: _Batch) -> Checkpoint:
    x, labels, history = batch
    inputs = {f"inputs/{index:03}": item.numpy() for index, item in enumerate(x)}
    return Checkpoint({**inputs, "labels": labels.numpy()}, {"history": history})


def _sharing(problem: SynthesisProblem, spec: SynthesisSpec) -> World:
    """Return the processes that make the batches: one alone where each batch looks at those before it."""
    world = problem.compute.world
    if spec.margin == 0 or world.size == 1:
        return world
    _LOG.warning(
        "the recipe keeps samples at a distance from all earlier ones (synthesis.margin), so its batches are made one "
        "after the other: more processes make them no faster"
    )
    return ALONE


def _settle(problem: SynthesisProblem, seed: int) -> Compute:
    """Return the precision that the teacher can be optimised through."""
    generator = torch.Generator().manual_seed(derive_seed(seed, "synthesize", "precision"))
    shown = [torch.randn(2, *own.shape, generator=generator) for own in problem.inputs]
    return problem.compute.for_network(problem.teacher.module, shown)


def _labels(problem: SynthesisProblem, spec: SynthesisSpec, batch: int) -> Tensor:
    """Return the classes of one batch, [batch], int64: in turn, or spread evenly where they are more than samples.

    Classes of one kind often stand together: those at the begin would be fish and birds alone.
    """
    classes = problem.classes or 1
    total = math.ceil(spec.samples / spec.batch) * spec.batch
    index = torch.arange(batch * spec.batch, (batch + 1) * spec.batch)
    return index * classes // total if classes > total else index % classes


def _mean_history(histories: Sequence[Sequence[dict[str, float]]]) -> list[dict[str, float]]:
    """Return the terms at each iteration and their sum, means over the batches."""
    means = []
    for step, entries in enumerate(zip(*histories, strict=True)):
        terms = {
            name: math.fsum(item.get(name, 0.0) for item in entries) / len(entries)
            for name in dict.fromkeys(name for item in entries for name in item)
        }
        means.append({"step": float(step), **terms, "loss": math.fsum(terms.values())})
    return means
