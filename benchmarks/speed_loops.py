"""The loops that `benchmarks/speed.py` measures: as they are, as one writes them first, and the floor of each.

Every loop is run through its own entry, a few steps at a time; a `Stopwatch` in the place of the progress bar notes
when each step ends.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

import calib.diversity
import calib.filters
import calib.inside
import edgeq.quant.objectives
import edgeq.quant.reconstruct
import edgeq.quant.train
import edgeq.teacher.normalisation
from calib.diversity import Spectrum
from calib.problem import SynthesisProblem
from calib.statistics import Moments
from calib.synthesize import synthesize
from calib.unoptimised import draw_leaves
from edgeq.core.recipes import ReconstructionSpec
from edgeq.pipeline.job import Job
from edgeq.quant.cones import cone
from edgeq.quant.drops import DroppedQuantizer, Masks
from edgeq.quant.fake_quant import FakeQuantizer
from edgeq.quant.reconstruct import reconstruct
from edgeq.quant.student import Student, first_scales
from edgeq.quant.train import TrainingProblem, all_samples, train_student
from edgeq.quant.units import partition
from edgeq.teacher.compute import PLAIN, Compute
from edgeq.teacher.normalisation import batch_normalization

# Steps of one turn; the first of them is not counted, and memory has settled in most of the others.
STEPS = 12


@dataclass(frozen=True, kw_only=True)
class Loop:
    """One loop and what it is held against.

    Attributes:
        name: of the loop.
        unit: of its speed, and `per_step`, how many of them a step makes.
        precision: in which it runs.
        ours, plain: each runs the loop for some steps and returns their seconds; in several parts where the step is
            another in each part of the network. A step of the whole is the sum of the parts.
        floor: the same for networks alone, in the precision of the loop; `float32_floor` in float32.
    """

    name: str
    unit: str
    per_step: float
    precision: str
    ours: Callable[[], list[list[float]]]
    plain: Callable[[], list[list[float]]]
    floor: Callable[[], list[list[float]]]
    float32_floor: Callable[[], list[list[float]]]


def clock() -> float:
    """Return seconds of the processor; where a GPU computes, those of the wall once it has done everything."""
    if not torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


class Stopwatch:
    """Notes how long each step of a loop takes, by `clock`."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self._last = 0.0

    def start(self, stage: str, total: int, unit: str) -> None:
        """Start anew."""
        self.seconds, self._last = [], clock()

    def advance(self, n: int = 1, **figures: float) -> None:
        """Note one step."""
        now = clock()
        self.seconds.append(now - self._last)
        self._last = now

    def finish(self, summary: str) -> None:
        """Do nothing."""

    def parts(self, count: int = 1) -> list[list[float]]:
        """Return the seconds of `count` parts of the loop, each without its first step."""
        size = len(self.seconds) // count
        return [self.seconds[i * size + 1 : (i + 1) * size] for i in range(count)]


def synthesis_loop(job: Job, compute: Compute) -> Loop:
    """Return the pixel loop of one batch, and the teacher forward and back to its input."""
    spec = job.recipe.synthesis
    short = dataclasses.replace(spec, samples=spec.batch, iterations=STEPS, start="noise")
    problem = dataclasses.replace(job.synthesis_problem(), compute=compute)
    plain_compute = dataclasses.replace(compute, half=False)
    teacher = job.teacher.on(compute.device).module

    def run(problem: SynthesisProblem) -> list[list[float]]:
        watch = Stopwatch()
        synthesize(problem, short, seed=0, progress=watch)
        return watch.parts()

    def plain() -> list[list[float]]:
        with plain_synthesis():
            return run(dataclasses.replace(problem, compute=plain_compute))

    def floor(compute: Compute) -> Callable[[], list[list[float]]]:
        noise = [torch.randn(spec.batch, *own.shape).to(compute.device) for own in job.specs]
        x = [item.requires_grad_(True) for item in noise]
        return lambda: [timed(lambda: forward_and_back(teacher, x, compute))]

    return Loop(
        name="synthesis",
        unit="images/s",
        per_step=spec.batch / spec.iterations,
        precision="bfloat16" if compute.half else "float32",
        ours=lambda: run(problem),
        plain=plain,
        floor=floor(compute),
        float32_floor=floor(plain_compute),
    )


def training_loop(job: Job, bits: str) -> Loop:
    """Return the student's training; its floor: the teacher forward, the network forward and back to its weights."""
    spec = dataclasses.replace(job.recipe.training, steps=STEPS)
    problem, x = short_problem(job, spec.batch)
    scales = first_scales(problem.teacher, problem.plan, [x])
    teacher, trained = problem.teacher.module, trainable(problem.teacher.copy().module)

    def run() -> list[list[float]]:
        watch = Stopwatch()
        student = Student(problem.teacher, problem.plan, scales)
        train_student(problem, spec, seed=0, progress=watch, student=student)
        return watch.parts()

    def floor() -> list[list[float]]:
        def once() -> None:
            with torch.no_grad():
                teacher(*x)
            forward_and_back(trained, x, PLAIN)

        return [timed(once)]

    return Loop(
        name=f"training {bits}",
        unit="steps/s",
        per_step=1.0,
        precision="float32",
        ours=run,
        plain=within(plain_numbers, run),
        floor=floor,
        float32_floor=floor,
    )


def reconstruction_loop(job: Job, bits: str, spec: ReconstructionSpec, name: str) -> Loop:
    """Return the reconstruction of every unit; its floor: that part of the network forward, and back to its weights.

    And back to its input too, because the scale of that is learned.
    """
    spec = dataclasses.replace(spec, iterations=STEPS, warmup=0.0)
    problem, x = short_problem(job, 2 * spec.batch)
    scales = first_scales(problem.teacher, problem.plan, [[item[: spec.batch] for item in x]])
    passes = 2 if spec.activations == "after" else 1
    probe = [item[:2] for item in x]
    units = partition(problem.teacher, problem.plan, problem.blocks, probe, unit=spec.unit)
    inputs = [problem.teacher.fx_node_of[tensor] for tensor in problem.teacher.inputs]
    shown = [item[: spec.batch] for item in x]

    def run() -> list[list[float]]:
        watch = Stopwatch()
        student = Student(problem.teacher, problem.plan, scales)
        reconstruct(problem, student, x, spec, seed=0, progress=watch)
        return watch.parts(passes * len(units))

    def floor() -> list[list[float]]:
        module = trainable(problem.teacher.copy().module)
        found = []
        for unit in units:
            with torch.no_grad():
                read = cone(problem.teacher.module, inputs, unit.inputs)(*shown)
            read = [item.detach().requires_grad_(True) for item in read]
            part = cone(module, unit.inputs, (unit.output,))
            found.append(timed(partial(forward_and_back, part, read, PLAIN)))
        return found * passes

    return Loop(
        name=f"reconstruction {bits}, {name}",
        unit="steps/s",
        per_step=float(passes * len(units)),
        precision="float32",
        ours=run,
        plain=within(plain_numbers, run),
        floor=floor,
        float32_floor=floor,
    )


def short_problem(job: Job, count: int) -> tuple[TrainingProblem, list[Tensor]]:
    """Return what is trained, on `count` samples of dead leaves, and these samples; on the job's device."""
    samples = draw_leaves(job.specs, count=count, seed=0)
    if job.classes is not None:
        labels = (torch.arange(count) % job.classes).numpy()
        samples = dataclasses.replace(samples, labels=labels)
    problem = job.training_problem(samples)
    problem = dataclasses.replace(problem, teacher=problem.teacher.on(job.compute.device))
    return problem, all_samples(problem)


def trainable(module: fx.GraphModule) -> fx.GraphModule:
    """Let every parameter of `module` have a gradient; return it."""
    for parameter in module.parameters():
        parameter.requires_grad_(True)
    return module


def forward_and_back(module: nn.Module, x: Sequence[Tensor], compute: Compute) -> None:
    """Run a network, and its gradient down to what requires one."""
    with compute.autocast():
        outputs = module(*x)
    values = [item.float().square().mean() for item in outputs if item.is_floating_point()]
    torch.autograd.backward(torch.stack(values).sum())


def timed(step: Callable[[], None]) -> list[float]:
    """Return the seconds of some steps, without the first."""
    watch = Stopwatch()
    watch.start("", STEPS, "step")
    for _ in range(STEPS):
        step()
        watch.advance()
    return watch.parts()[0]


def within(
    context: Callable[[], Any], run: Callable[[], list[list[float]]]
) -> Callable[[], list[list[float]]]:
    """Return `run`, inside `context`."""

    def inside() -> list[list[float]]:
        with context():
            return run()

    return inside


def plain_adam(parameters: Any, **figures: Any) -> torch.optim.Adam:
    """Return Adam as torch makes it by itself."""
    return ADAM(parameters, **{**figures, "fused": None})


ADAM = torch.optim.Adam


class PlainNormalisation:
    """BatchNormalization with torch's own gradient."""

    @staticmethod
    def apply(
        x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, var: Tensor, eps: float
    ) -> Tensor:
        """Return the normalised `x`."""
        return F.batch_norm(x, mean, var, scale, bias, training=False, eps=eps)


def plain_moments(a: Tensor) -> Moments:
    """Measure by torch's variance, once for the batch and once for the samples."""
    axes = tuple(range(2, a.ndim))
    var, mean = torch.var_mean(a, (0, *axes), correction=0)
    if not axes:
        return Moments(mean=mean, var=var, sample_mean=None, sample_var=None)
    sample_var, sample_mean = torch.var_mean(a, axes, correction=0)
    return Moments(mean=mean, var=var, sample_mean=sample_mean, sample_var=sample_var)


def plain_normalise(x: Tensor, *constants: Tensor, **figures: Any) -> tuple[Tensor, Moments]:
    """Normalise, and measure by itself."""
    return batch_normalization(x, *constants, **figures), plain_moments(x)


def plain_spectrum(x: Tensor) -> Spectrum:
    """Scale the samples to unit length in float64, then multiply them."""
    rows = F.normalize(x.flatten(1).double(), dim=1)
    values, vectors = torch.linalg.eigh(rows @ rows.T)
    return Spectrum(values=values, vectors=vectors)


def plain_lowpass(x: Tensor, cutoff: float) -> Tensor:
    """Filter by the Fourier transform of both axes."""
    height, width = x.shape[-2:]
    rows = torch.fft.fftfreq(height, device=x.device) * 2
    columns = torch.fft.rfftfreq(width, device=x.device) * 2
    gain = torch.exp(-(rows[:, None].square() + columns[None].square()) / (2 * cutoff**2))
    filtered: Tensor = torch.fft.irfft2(torch.fft.rfft2(x) * gain, s=(height, width))
    return filtered


@contextmanager
def plain_synthesis() -> Iterator[None]:
    """Write the pixel loop as one does first."""
    with (
        mock.patch.object(calib.inside, "normalise_and_measure", plain_normalise),
        mock.patch.object(calib.inside, "measure", plain_moments),
        mock.patch.object(calib.diversity, "gram_spectrum", plain_spectrum),
        mock.patch.object(calib.filters, "lowpass", plain_lowpass),
        mock.patch.object(edgeq.teacher.normalisation, "_Affine", PlainNormalisation),
        mock.patch.object(torch.optim, "Adam", plain_adam),
    ):
        yield


def plain_quantize(self: FakeQuantizer, x: Tensor) -> Tensor:
    """Round with a straight-through gradient, all of it left to autograd."""
    if not self.enabled:
        return x
    scale = self._broadcast()
    inside = (x / scale).clamp(self.grid.low - 0.5, self.grid.high + 0.5)
    codes = inside.round().clamp(self.grid.low, self.grid.high)
    return (inside + (codes - inside).detach()) * scale


def plain_mix(first: Tensor, second: Tensor, share: float, masks: Masks) -> Tensor:
    """Draw a number for each value."""
    if share >= 1:
        return first
    source = masks.generator
    drawn = torch.rand(first.shape, generator=source, device=source.device)
    return torch.where(drawn < share, first, second)


def plain_drop(self: DroppedQuantizer, x: Tensor) -> Tensor:
    """Quantize everything, then mix."""
    return plain_mix(self._quantizer(x), x, self._keep, self._masks)


def plain_relative_error(student: Tensor, teacher: Tensor, energy: None = None) -> Tensor:
    """Return the squared error relative to the teacher's square; one process has no other `energy`."""
    return (student - teacher).square().mean() / teacher.square().mean().clamp_min(1e-12)


def plain_channel_error(made: Tensor, wanted: Tensor, power: float = 2.0) -> Tensor:
    """Return the error as the published code has it."""
    axis = -1 if made.ndim == 3 else 1
    return (made - wanted).abs().pow(power).sum(axis).mean()


@contextmanager
def plain_numbers() -> Iterator[None]:
    """Write training and reconstruction as one does first."""
    with (
        mock.patch.object(FakeQuantizer, "forward", plain_quantize),
        mock.patch.object(DroppedQuantizer, "forward", plain_drop),
        mock.patch.object(edgeq.quant.reconstruct, "mix", plain_mix),
        mock.patch.object(edgeq.quant.objectives, "relative_error", plain_relative_error),
        mock.patch.object(edgeq.quant.train, "relative_error", plain_relative_error),
        mock.patch.object(edgeq.quant.reconstruct, "channel_error", plain_channel_error),
        mock.patch.object(torch.optim, "Adam", plain_adam),
    ):
        yield
