"""`--dry-run`: what a build would do, with the time and memory that it would take on this machine.

Time is measured, not guessed: a few steps of both loops are run on this machine, and multiplied.
"""

from __future__ import annotations

import dataclasses
import resource
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgeq.core.plan import QuantPlan
from edgeq.core.samples import SampleSet
from edgeq.core.specs import Effort
from edgeq.pipeline.job import Job, prepare
from edgeq.pipeline.options import BuildOptions
from edgeq.pipeline.workspace import Workspace
from edgeq.teacher.world import ALONE

if TYPE_CHECKING:
    from edgeq.quant.train import TrainingProblem

# Steps that are run to measure one, after a first one that is slower.
MEASURED_STEPS = 3

# From here on the plan says what would take less time.
LONG_S = 1800


@dataclass(frozen=True, slots=True, kw_only=True)
class DryRun:
    """The plan of a build and its expected cost.

    Attributes:
        synthesis_s, training_s: seconds, extrapolated from steps that were run here.
        memory_mb: peak of this process while those steps ran.
        gpu_memory_mb: of its tensors on the GPU; 0 on the CPU.
    """

    job: Job
    synthesis_s: float
    training_s: float
    memory_mb: float
    gpu_memory_mb: float

    def to_dict(self) -> dict[str, Any]:
        """Return the plain form."""
        job = self.job
        return {
            "folder": str(job.options.out),
            "model": job.options.model.name,
            "target": job.card.name,
            "bits": str(job.options.bits),
            "preprocessing": job.preprocessing,
            "build": job.identity(),
            "proof": job.proof.to_dict(),
            "findings": list(job.findings),
            "expected": {
                "synthesis_s": self.synthesis_s,
                "training_s": self.training_s,
                "memory_mb": self.memory_mb,
                "gpu_memory_mb": self.gpu_memory_mb,
            },
        }

    def lines(self) -> list[str]:
        """Return the plan in words."""
        job, recipe, known = self.job, self.job.recipe, self.job.statistics
        made = recipe.synthesis
        on_gpu = f", and {self.gpu_memory_mb:.0f} MB of the GPU" if self.gpu_memory_mb else ""
        samples = (
            f"samples: {len(job.given)}, given"
            if job.given is not None
            else f"synthesize: {made.cost}: about {tell_duration(self.synthesis_s)}"
        )
        return [
            f"model: {job.options.model.name}, {len(job.loaded.model.graph.node)} nodes",
            *(
                f"input: '{item.spec.name}' {'x'.join(map(str, item.spec.shape))}, {item.chosen_by}"
                for item in job.inputs
            ),
            f"target: {job.card.title} ({job.card.stack}), bits {job.options.bits}",
            f"graph: {job.card.flavour.words}",
            f"teacher: equal to ONNX Runtime, largest difference {job.proof.largest_abs:.2g}",
            f"BN table: {len(known.table.entries)} layers, {known.text}; trust: {known.trust}",
            f"placement: {_count(job.plan)}",
            f"recipe: {recipe.name}, effort {recipe.effort.value}, seed {job.options.seed}",
            samples,
            f"train: {recipe.numbers_cost}: about {tell_duration(self.training_s)}",
            *self.advice(),
            f"device: {job.compute.describe()}",
            f"memory: about {self.memory_mb:.0f} MB{on_gpu}",
            f"folder: {job.options.out}",
        ]

    def advice(self) -> list[str]:
        """Return what makes a long build shorter, if anything does."""
        shorter = []
        if self.job.recipe.effort is not Effort.QUICK:
            shorter.append("--effort quick")
        if self.job.compute.device.type == "cpu":
            shorter.append("a machine with a GPU")
        if self.synthesis_s + self.training_s < LONG_S or not shorter:
            return []
        return [f"shorter: {' or '.join(shorter)}; an interrupted build goes on where it stopped"]


def tell_duration(seconds: float) -> str:
    """Return a time in the unit that suits it: "31 s", "8 min", "8.8 h"."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def plan_build(options: BuildOptions) -> DryRun:
    """Return what `run_build` would do; nothing is written.

    Raises:
        EdgeqError: whatever speaks against the build, its output folder included.
    """
    job = prepare(options)
    Workspace(options.out, job.identity(), overwrite=options.overwrite)
    with job.compute.session():
        synthesis_s, training_s = _measure(job)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # The unit of ru_maxrss is kilobytes on Linux and bytes on macOS.
    per_mb = 1024 if sys.platform != "darwin" else 1024 * 1024
    return DryRun(
        job=job,
        synthesis_s=synthesis_s,
        training_s=training_s,
        memory_mb=peak / per_mb,
        gpu_memory_mb=job.compute.peak_mb(),
    )


def _measure(job: Job) -> tuple[float, float]:
    """Return the expected seconds of synthesis and training.

    Each loop is run twice, short and a little longer; the difference is what the steps take without the start.
    """
    from calib.centres import count_steps
    from calib.estimate import with_targets
    from calib.synthesize import synthesize

    full = job.recipe.synthesis
    problem = job.synthesis_problem()
    world = job.compute.world if full.margin == 0 else ALONE

    def make(steps: int) -> SampleSet:
        short = dataclasses.replace(
            full, samples=full.batch, iterations=steps, centre_iterations=1, leaves_per_sample=0
        )
        return synthesize(problem, short, seed=job.options.seed)

    samples, synthesis_s = job.given, 0.0
    if samples is None:
        problem = with_targets(problem, full, seed=job.options.seed)
        samples = make(1)
        batches = -(-full.samples // full.batch)
        steps = 1
        if full.source == "optimise":
            steps = world.rounds(batches) * full.iterations + count_steps(problem, full)
        synthesis_s = _extrapolate(make, steps)
    return synthesis_s, _measure_numbers(job, job.training_problem(samples))


def _measure_numbers(job: Job, problem: TrainingProblem) -> float:
    """Return the expected seconds of reconstruction and training."""
    from edgeq.core.recipes import CorrectionSpec
    from edgeq.quant.numbers import find_numbers

    plain = dataclasses.replace(job.recipe, correction=CorrectionSpec())

    def run(*, iterations: int = 0, steps: int = 0) -> None:
        short = dataclasses.replace(
            plain,
            reconstruction=dataclasses.replace(plain.reconstruction, iterations=iterations),
            training=dataclasses.replace(plain.training, steps=steps),
        )
        find_numbers(problem, short, seed=job.options.seed)

    seconds = 0.0
    if plain.reconstruction.iterations:
        seconds += _extrapolate(lambda n: run(iterations=n), plain.reconstruction.iterations)
    if plain.training.steps or not seconds:
        seconds += _extrapolate(lambda n: run(steps=n), plain.training.steps)
    return seconds


def _extrapolate(loop: Callable[[int], object], steps: int) -> float:
    """Return the seconds that `loop(steps)` would take, from two short runs."""
    times = []
    for count in (1, 1 + MEASURED_STEPS):
        started = time.monotonic()
        loop(count)
        times.append(time.monotonic() - started)
    per_step = max(times[1] - times[0], 0.0) / MEASURED_STEPS
    return times[0] + per_step * max(steps - 1, 0)


def _count(plan: QuantPlan) -> str:
    """Return how many tensors have which grid."""
    counts = Counter(f"{d.role.value} {d.grid}" for d in plan.quantized())
    return ", ".join(f"{number} x {kind}" for kind, number in sorted(counts.items()))
