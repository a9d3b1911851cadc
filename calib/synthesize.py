"""Sample sets from a teacher alone: pixels are optimised until the teacher's statistics look like training data.

Main entry: `synthesize`. The loop is J1 of the methods document: pixels start as dead leaves or low-passed noise; each
step shows the teacher a filtered, clipped, shifted and mirrored copy and moves the pixels down the gradient of
    batch term + sample term (slack, enhancement) + decorrelation / L + cross-entropy with the sample's class.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from calib.diversity import Spectrum, gram_spectrum, spectral_gram_term
from calib.filters import lowpass, random_shift
from calib.leaves import dead_leaves
from calib.statistics import (
    LayerStatistics,
    batch_term,
    deviation,
    measure,
    pooled_deviation,
    sample_term,
    targets_from_table,
    with_slack,
)
from calib.units import Unit, legal_box, make_unit, standardise
from edgeq.core.errors import CalibError
from edgeq.core.progress import NoProgress, Progress
from edgeq.core.recipes import SynthesisSpec
from edgeq.core.samples import SampleSet
from edgeq.core.seeds import derive_seed
from edgeq.core.specs import BNTable, InputSpec, Layout
from edgeq.teacher.teacher import Teacher, with_outputs

# How many noise images set the slack. The paper is recalled to use 1,024; the quantile over channels is stable to 1 %
# from 128 on.
SLACK_SAMPLES = 256
# The share of Nyquist at which the first noise is cut, so that it starts with a picture's slow variation.
INITIAL_CUTOFF = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class SynthesisProblem:
    """What the samples are made for.

    Attributes:
        teacher: of the graph whose BatchNormalizations are kept.
        table: its BN table, recorded or estimated (`calib.estimate`).
        inputs: of the model, in file order.
        classes: number of classes of the first output, or None where it gives no class scores.
    """

    teacher: Teacher
    table: BNTable
    inputs: tuple[InputSpec, ...]
    classes: int | None


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
        return _unoptimised(problem, units, spec, batches, seed=seed, progress=progress)
    if not problem.table.entries and spec.targets == "recorded":
        raise no_statistics()
    if not problem.table.entries and (problem.classes is None or spec.label == 0):
        spec = dataclasses.replace(spec, source=spec.start)
        return _unoptimised(problem, units, spec, batches, seed=seed, progress=progress)
    loop = _PixelLoop(problem, spec, seed=seed)
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
    result = _sample_set(units, samples, classes, spec, seed, terms, _mean_history(histories))
    told = ", ".join(f"{name} {value:.3g}" for name, value in terms.items())
    progress.finish(f"{len(result)} samples, {told}")
    return result


def no_statistics() -> CalibError:
    """Return the error for a model without BatchNormalization statistics and a recipe that needs them."""
    return CalibError(
        "no BatchNormalization with statistics in the file, and the recipe needs them",
        why="samples are made to match the mean and variance that BatchNormalization layers recorded in training; "
        "PyTorch's default exporter folds these layers into the convolutions and the figures are gone",
        mend="pass --teacher weights.pth, the state dict that the file was exported from; or export again with "
        "BatchNormalization kept, by `edgeq export`; or leave --recipe out: the default works from the file alone, "
        "less accurately",
    )


class _PixelLoop:
    """One run of the pixel loop over all batches."""

    def __init__(self, problem: SynthesisProblem, spec: SynthesisSpec, *, seed: int) -> None:
        self._problem = problem
        self._spec = spec
        self._seed = seed
        self._module = _statistics_module(problem)
        self._boxes = [legal_box(own) for own in problem.inputs]
        self._targets = targets_from_table(problem.table)
        self._spectrum: Spectrum | None = None
        self._relaxed: Sequence[LayerStatistics] = self._targets
        if spec.slack_quantile > 0:
            noise = self._noise(SLACK_SAMPLES, "slack")
            with torch.no_grad():
                _, activations = self._module(*noise)
            moments = [measure(a) for a in activations]
            self._relaxed = with_slack(self._targets, moments, quantile=spec.slack_quantile)

    def labels(self, batch: int) -> Tensor:
        """Return the classes of one batch, taken in turn: [batch], int64."""
        start = batch * self._spec.batch
        return torch.arange(start, start + self._spec.batch) % (self._problem.classes or 1)

    def run(
        self, batch: int, labels: Tensor, progress: Progress
    ) -> tuple[list[Tensor], list[dict[str, float]]]:
        """Return the finished samples of one batch, one tensor an input, and the terms at each iteration."""
        spec = self._spec
        generator = self._generator("pixels", str(batch))
        pixels = [
            initial_pixels(spec, own, generator).requires_grad_(True)
            for own in self._problem.inputs
        ]
        optimizer = torch.optim.Adam(pixels, lr=spec.learning_rate, betas=(0.9, 0.99))
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, spec.iterations)
        history: list[dict[str, float]] = []
        for _ in range(spec.iterations):
            shown = [self._shown(index, x, generator) for index, x in enumerate(pixels)]
            terms = self._terms(shown, labels)
            loss = torch.stack(list(terms.values())).sum()
            optimizer.zero_grad(set_to_none=True)
            torch.autograd.backward(loss)
            optimizer.step()
            schedule.step()
            history.append({name: float(value.detach()) for name, value in terms.items()})
            _require_finite(pixels, history[-1])
            progress.advance(loss=loss.item())
        return [self._legal(index, x.detach()) for index, x in enumerate(pixels)], history

    def _shown(self, index: int, pixels: Tensor, generator: torch.Generator) -> Tensor:
        """Return what the teacher sees at one input: legal pictures, mirrored every other time, shifted."""
        shown = self._legal(index, pixels)
        layout = self._problem.inputs[index].layout
        if layout is Layout.OTHER:
            return shown
        rows, columns = (1, 2) if layout is Layout.NHWC else (2, 3)
        if torch.rand((), generator=generator) < 0.5:
            shown = shown.flip(columns)
        return random_shift(shown, self._spec.shift, generator, axes=(rows, columns))

    def _terms(self, x: Sequence[Tensor], labels: Tensor) -> dict[str, Tensor]:
        """Return the weighted terms of the loss, each []."""
        spec = self._spec
        outputs, activations = self._module(*x)
        moments = [measure(a) for a in activations]
        terms = {}
        if moments:
            distance = pooled_deviation if spec.targets == "weights" else deviation
            term = batch_term(moments, self._targets, distance=distance)
            terms["statistics"] = spec.batch_statistics * term
        has_positions = any(m.sample_mean is not None for m in moments)
        if spec.sample_statistics > 0 and has_positions:
            terms["sample"] = spec.sample_statistics * sample_term(
                moments, self._relaxed, enhancement=spec.enhancement
            )
        rows = torch.cat([item.flatten(1) for item in x], 1)
        # Samples that are more than their values have no spectrum that could be followed: eigenvalues repeat.
        if spec.decorrelation > 0 and rows.shape[1] >= rows.shape[0]:
            weight = spec.decorrelation / max(1, len(activations))
            spectrum = self._noise_spectrum(len(rows))
            terms["decorrelation"] = weight * spectral_gram_term(rows, spectrum)
        if self._problem.classes is not None and spec.label > 0:
            terms["label"] = spec.label * torch.nn.functional.cross_entropy(
                outputs[0].float(), labels
            )
        return terms

    def _noise_spectrum(self, count: int) -> Spectrum:
        """Return the Gram spectrum of noise, drawn once a run."""
        if self._spectrum is None:
            noise = self._noise(count, "spectrum")
            self._spectrum = gram_spectrum(torch.cat([item.flatten(1) for item in noise], 1))
        return self._spectrum

    def _noise(self, count: int, purpose: str) -> list[Tensor]:
        """Return N(0, 1) values of every input."""
        generator = self._generator(purpose)
        shapes = [own.shape for own in self._problem.inputs]
        return [torch.randn(count, *shape, generator=generator) for shape in shapes]

    def _legal(self, index: int, pixels: Tensor) -> Tensor:
        layout = self._problem.inputs[index].layout
        filtered = channels_first_filter(pixels, self._spec.lowpass, layout)
        low, high = self._boxes[index]
        return torch.maximum(torch.minimum(filtered, high), low)

    def _generator(self, *names: str) -> torch.Generator:
        return torch.Generator().manual_seed(derive_seed(self._seed, "synthesize", *names))


def _mean_history(histories: Sequence[Sequence[dict[str, float]]]) -> list[dict[str, float]]:
    """Return the terms at each iteration and their sum, means over the batches."""
    means = []
    for step, entries in enumerate(zip(*histories, strict=True)):
        terms = {
            name: math.fsum(item[name] for item in entries) / len(entries) for name in entries[0]
        }
        means.append({"step": float(step), **terms, "loss": math.fsum(terms.values())})
    return means


def _require_finite(pixels: Sequence[Tensor], terms: dict[str, float]) -> None:
    """Raise if a step gave or left something that the next one cannot start from."""
    if all(map(math.isfinite, terms.values())) and all(x.isfinite().all() for x in pixels):
        return
    raise CalibError(
        f"the loss of the synthesis is no longer finite: {terms}",
        why="the pixels have run away from what the teacher can be evaluated on, or its values overflow float32",
        mend="lower --set synthesis.learning_rate, or try another --seed",
    )


def _statistics_module(problem: SynthesisProblem) -> fx.GraphModule:
    return with_outputs(problem.teacher, [entry.tensor for entry in problem.table.entries])


def channels_first_filter(x: Tensor, cutoff: float, layout: Layout) -> Tensor:
    """Return the low-passed pictures, whatever their layout; other inputs are returned as they are."""
    if layout is Layout.NHWC:
        return lowpass(x.permute(0, 3, 1, 2), cutoff).permute(0, 2, 3, 1)
    return lowpass(x, cutoff) if layout is Layout.NCHW else x


def initial_pixels(spec: SynthesisSpec, own: InputSpec, generator: torch.Generator) -> Tensor:
    """Return what the pixels of one batch start from, [batch, *shape]: see `SynthesisSpec.start`."""
    if spec.start == "leaves":
        return leaves(own, spec.batch, generator, spread=spec.colour_spread)
    noise = torch.randn(spec.batch, *own.shape, generator=generator)
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


def _unoptimised(
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
    samples: list[list[Tensor]] = []
    labels: list[Tensor] = []
    for index in range(batches):
        generator = torch.Generator().manual_seed(
            derive_seed(seed, "synthesize", spec.source, str(index))
        )
        made = []
        for own in problem.inputs:
            low, high = legal_box(own)
            if spec.source == "leaves":
                x = leaves(own, spec.batch, generator, spread=spec.colour_spread)
            else:
                x = torch.randn(spec.batch, *own.shape, generator=generator)
            made.append(torch.maximum(torch.minimum(x, high), low))
        # These were made for no class; the teacher's own answer is the only label that they can have.
        if problem.classes is not None:
            with torch.no_grad():
                labels.append(problem.teacher.module(*made)[0].argmax(-1))
        samples.append(made)
        progress.advance()
    wanted = torch.cat(labels) if labels else None
    result = _sample_set(units, samples, wanted, spec, seed, {}, [])
    progress.finish(f"{len(result)} samples of {spec.source}")
    return result


def _sample_set(
    units: Sequence[Unit],
    batches: Sequence[Sequence[Tensor]],
    labels: Tensor | None,
    spec: SynthesisSpec,
    seed: int,
    terms: dict[str, float],
    history: list[dict[str, float]],
) -> SampleSet:
    """Return the batches, each one tensor an input, as one set in the units of the file."""
    joined = zip(units, zip(*batches, strict=True), strict=True)
    arrays = {unit.spec.name: unit.restore(torch.cat(parts)) for unit, parts in joined}
    first, *others = [unit.spec for unit in units]
    inputs: dict[str, object] = {"input": first.to_dict()}
    if others:
        inputs["other_inputs"] = [own.to_dict() for own in others]
    return SampleSet(
        input_name=first.name,
        samples=arrays.pop(first.name),
        labels=None if labels is None else labels.numpy(),
        provenance={
            "synthesis": spec.to_dict(),
            "seed": seed,
            "terms": terms,
            **inputs,
            "torch": torch.__version__,
        },
        others=arrays,
        history=history,
    )
