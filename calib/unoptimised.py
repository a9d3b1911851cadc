"""Where samples start: dead leaves or noise, as a recipe begins with them, and as sample sets of their own."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from calib.filters import channels_first_filter
from calib.leaves import dead_leaves
from calib.problem import SynthesisProblem, collect_samples
from calib.units import Unit, legal_box, make_unit
from edgeq.core.progress import Progress
from edgeq.core.recipes import SynthesisSpec
from edgeq.core.samples import SampleSet
from edgeq.core.seeds import derive_seed
from edgeq.core.specs import InputSpec, Layout

# The share of Nyquist at which the first noise is cut, so that it starts with a picture's slow variation.
INITIAL_CUTOFF = 0.25


def initial_pixels(spec: SynthesisSpec, own: InputSpec, generator: torch.Generator) -> Tensor:
    """Return what the pixels of one batch start from, [batch, *shape]: see `SynthesisSpec.start`."""
    if spec.start == "leaves":
        return leaves(own, spec.batch, generator, spread=spec.colour_spread)
    noise = torch.randn(spec.batch, *own.shape, generator=generator)
    if spec.start == "white":
        return noise
    smooth = channels_first_filter(noise, INITIAL_CUTOFF, own.layout)
    return smooth / smooth.std()


def leaves(spec: InputSpec, count: int, generator: torch.Generator, *, spread: float) -> Tensor:
    """Return dead leaves as the model takes them, [count, *shape].

    What is no picture is in the standard unit (see `calib.units`). A signal [C, T] becomes rows of dead leaves: levels
    that begin and end, with slow and fast variation on them; feature maps [..., H, W] become pictures of as many
    channels. The values of a vector have no neighbours and are N(0, 1).
    """
    if spec.layout is not Layout.OTHER:
        height, width = spec.shape[:2] if spec.layout is Layout.NHWC else spec.shape[1:]
        pictures = dead_leaves(count, height, width, spec.channels, generator, spread=spread)
        return torch.from_numpy(spec.normalise(pictures.permute(0, 2, 3, 1).numpy()))
    if len(spec.shape) == 1:
        return torch.randn(count, *spec.shape, generator=generator)
    *channels, height, width = (
        (spec.shape[0], 1, spec.shape[1]) if len(spec.shape) == 2 else spec.shape
    )
    values = dead_leaves(count, height, width, math.prod(channels), generator, spread=spread)
    return (4 * values - 2).view(count, *spec.shape)


def draw_leaves(
    inputs: Sequence[InputSpec], *, count: int, seed: int, spread: float = 0.25
) -> SampleSet:
    """Return `count` samples of dead leaves inside the legal box of every input; no network is asked.

    `spread` is that of `SynthesisSpec.colour_spread`.
    """
    generator = torch.Generator().manual_seed(derive_seed(seed, "leaves"))
    arrays = {}
    for unit in map(make_unit, inputs):
        low, high = legal_box(unit.standard)
        x = leaves(unit.standard, count, generator, spread=spread)
        arrays[unit.spec.name] = unit.restore(torch.maximum(torch.minimum(x, high), low))
    first = inputs[0].name
    return SampleSet(
        input_name=first,
        samples=arrays.pop(first),
        labels=None,
        provenance={"source": "leaves", "seed": seed, "torch": torch.__version__},
        others=arrays,
    )


def take_unoptimised(
    problem: SynthesisProblem,
    units: Sequence[Unit],
    spec: SynthesisSpec,
    batches: int,
    *,
    seed: int,
    progress: Progress,
) -> SampleSet:
    """Return dead leaves, or N(0, 1) noise, clipped to the legal box; the teacher is asked for labels alone."""
    progress.start("synthesize", batches, "batch")
    samples, labels = unoptimised_batches(
        problem, spec, spec.source, batches, seed=seed, progress=progress
    )
    result = collect_samples(units, samples, labels, spec, seed, {}, [])
    progress.finish(f"{len(result)} samples of {spec.source}")
    return result


def unoptimised_batches(
    problem: SynthesisProblem,
    spec: SynthesisSpec,
    source: str,
    batches: int,
    *,
    seed: int,
    progress: Progress,
) -> tuple[list[list[Tensor]], Tensor | None]:
    """Return batches of "leaves" or "noise", one tensor an input, and the teacher's classes [N] of a classifier."""
    samples: list[list[Tensor]] = []
    labels: list[Tensor] = []
    for index in range(batches):
        generator = torch.Generator().manual_seed(
            derive_seed(seed, "synthesize", source, str(index))
        )
        made = []
        for own in problem.inputs:
            low, high = legal_box(own)
            if source == "leaves":
                x = leaves(own, spec.batch, generator, spread=spec.colour_spread)
            else:
                x = torch.randn(spec.batch, *own.shape, generator=generator)
            made.append(torch.maximum(torch.minimum(x, high), low))
        if problem.classes is not None:
            labels.append(answer(problem, made))
        samples.append(made)
        progress.advance()
    return samples, torch.cat(labels) if labels else None


def answer(problem: SynthesisProblem, x: Sequence[Tensor]) -> Tensor:
    """Return the teacher's classes [N] of samples that were made for none, [] where the output is no classifier.

    Samples and classes lie on the CPU.
    """
    if problem.classes is None:
        return torch.empty(0)
    with torch.no_grad():
        shown = [item.to(problem.compute.device) for item in x]
        found: Tensor = problem.teacher.module(*shown)[0].argmax(-1)
    return found.cpu()
