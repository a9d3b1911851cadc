"""Reconstruction: unit after unit, rounding and scales are fitted to what the teacher makes there.

Entry: `reconstruct`. AdaRound, BRECQ, QDrop, Genie-M and PD-Quant are figures of `ReconstructionSpec`: what a unit is,
what is learned in it, what it reads, and what else is asked of it. Deviations that all of them share: grids are those
of the plan (symmetric; the papers have affine weights); a quantizer sits at the inputs of a unit (as in Genie), because
that is where the file has it; first scales of activations are read on the float network.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from edgeq.core.checkpoints import NO_CHECKPOINTS, Checkpoint, Checkpoints
from edgeq.core.errors import BuildError
from edgeq.core.plan import QuantPlan, Role
from edgeq.core.progress import NoProgress, Progress
from edgeq.core.recipes import ReconstructionSpec
from edgeq.core.seeds import derive_seed
from edgeq.graph.findings import listed
from edgeq.quant.cones import cone
from edgeq.quant.drops import Masks, mix
from edgeq.quant.features import Features, FeatureStore
from edgeq.quant.fitting import Fitting
from edgeq.quant.rounding import beta_at
from edgeq.quant.student import Student
from edgeq.quant.train import TrainingProblem
from edgeq.quant.unit_objectives import (
    channel_axis,
    channel_error,
    prediction_difference,
    suffix_of,
)
from edgeq.quant.units import Unit, partition

_LOG = logging.getLogger(__name__)

# Power of the error in BRECQ's second pass, over the scales of activations.
SECOND_POWER = 2.4

# Samples that show where the batch axis is.
_PROBE = 2

# The name of the reconstruction's own state.
CHECKPOINT = "reconstruction"

# Rows of the history that are kept of each unit.
_ROWS = 20


def reconstruct(
    problem: TrainingProblem,
    student: Student,
    x: Sequence[Tensor],
    spec: ReconstructionSpec,
    *,
    seed: int,
    progress: Progress | None = None,
    checkpoints: Checkpoints = NO_CHECKPOINTS,
) -> list[dict[str, float]]:
    """Fit the units of `student` in running order, in place; return the terms of the loss over time.

    Args:
        problem: teacher, plan and cut tensors.
        student: with first scales.
        x: all samples, one tensor a graph input, [N, ...].
        spec: figures of the recipe.
        seed: of the build.
        progress: told the loss at every step.
        checkpoints: where finished units are kept now and then; those that are found there are not fitted again.

    Returns:
        history: about 20 rows a unit: step and each unweighted term.

    Raises:
        BuildError: if a loss stops being finite.
    """
    progress = progress or NoProgress()
    probe = [item[:_PROBE].float() for item in x]
    units = partition(problem.teacher, problem.plan, problem.blocks, probe, unit=spec.unit)
    _tell_left_alone(problem.plan, units)
    passes = 2 if spec.activations == "after" else 1
    progress.start("reconstruct", passes * len(units) * spec.iterations, "step")
    engine = _Engine(problem, student, spec, seed=seed, progress=progress, checkpoints=checkpoints)
    if engine.found:
        progress.advance(engine.found * spec.iterations)
    if spec.activations == "joint":
        engine.fit(units, x)
    else:
        with _float_activations(student):
            engine.fit(units, x)
    if spec.activations == "after":
        engine.fit(units, x, second=True)
    last = engine.history[-1]["loss"] if engine.history else math.nan
    engine.keep()
    kept = f", {engine.found} units from an interrupted run" if engine.found else ""
    progress.finish(f"{len(units)} units ({spec.unit}), loss {last:.4g}{kept}")
    return engine.history


def _tell_left_alone(plan: QuantPlan, units: Sequence[Unit]) -> None:
    fitted = {name for unit in units for name in unit.weights}
    left = [item.tensor for item in plan.quantized(Role.WEIGHT) if item.tensor not in fitted]
    if left:
        _LOG.warning(
            "%d of %d weights are in no unit of the reconstruction, and are rounded to nearest: %s",
            len(left),
            len(left) + len(fitted),
            listed(left),
        )


@contextmanager
def _float_activations(student: Student) -> Iterator[None]:
    """Let the student's activations through in float."""
    activations = [decision.tensor for decision in student.plan.quantized(Role.ACTIVATION)]
    found = [student.quantizers[name] for name in activations if name in student.quantizers]
    for quantizer in found:
        quantizer.enabled = False
    try:
        yield
    finally:
        for quantizer in found:
            quantizer.enabled = True


@dataclass(frozen=True, slots=True)
class _Data:
    """What a unit reads, from teacher and student, and what the teacher makes of it, whose channels lie on `axis`."""

    clean: list[Features]
    noisy: list[Features]
    target: Features
    axis: int


class _Engine:
    """The loop over units.

    Attributes:
        history: rows of the terms.
        found: how many units an interrupted run had fitted; in both passes, where there are two.
    """

    def __init__(
        self,
        problem: TrainingProblem,
        student: Student,
        spec: ReconstructionSpec,
        *,
        seed: int,
        progress: Progress,
        checkpoints: Checkpoints,
    ) -> None:
        self.history: list[dict[str, float]] = []
        self._problem = problem
        self._student = student
        self._modules = (problem.teacher.module, student.teacher.module)
        self._spec = spec
        self._generator = torch.Generator().manual_seed(derive_seed(seed, "reconstruct"))
        drops = problem.compute.generator(derive_seed(seed, "reconstruct", "drops"))
        self._masks = Masks(drops)
        self._progress = progress
        self._learned: set[str] = set()
        self._steps = 0
        for parameter in student.teacher.module.parameters():
            parameter.requires_grad_(False)
        self._checkpoints = checkpoints
        self._met = self._finished = 0
        self.found = self._restore()

    def keep(self) -> None:
        """Keep what was fitted."""
        parts = {
            "student": {
                name: parameter.detach().cpu().numpy()
                for name, parameter in self._student.teacher.module.named_parameters()
            },
            "random": {
                "generator": self._generator.get_state().numpy(),
                "masks": self._masks.generator.get_state().numpy(),
            },
        }
        notes = {
            "finished": self._finished,
            "history": self.history,
            "learned": sorted(self._learned),
            "steps": self._steps,
        }
        self._checkpoints.save(CHECKPOINT, Checkpoint.of_parts(parts, notes))

    def _restore(self) -> int:
        """Go on from what was kept, if there is anything; return how many units it has."""
        kept = self._checkpoints.load(CHECKPOINT)
        if kept is None:
            return 0
        values = kept.part("student")
        with torch.no_grad():
            for name, parameter in self._student.teacher.module.named_parameters():
                parameter.copy_(torch.from_numpy(values[name]))
        random = kept.part("random")
        self._generator.set_state(torch.from_numpy(random["generator"]))
        self._masks.generator.set_state(torch.from_numpy(random["masks"]))
        self.history, self._steps = kept.notes["history"], kept.notes["steps"]
        self._learned = set(kept.notes["learned"])
        self._finished = kept.notes["finished"]
        return self._finished

    def fit(self, units: Sequence[Unit], x: Sequence[Tensor], *, second: bool = False) -> None:
        """Fit every unit on what those before it give; `second` learns scales of activations on the teacher's inputs.

        Features lie on disk, those of one anchor and one unit at a time: a file goes with the last reference to it.
        """
        if self._met + len(units) <= self._finished:
            self._met += len(units)
            return
        store = FeatureStore(self._spec.batch)
        anchor = units[0].anchor if units else ()
        clean = [store.put(item) for item in x]
        noisy = [store.put(item) for item in x]
        for unit in units:
            if unit.anchor != anchor:
                clean, noisy = self._run(store, anchor, unit.anchor, (clean, noisy))
                anchor = unit.anchor
            self._met += 1
            if self._met <= self._finished:
                continue
            self._masks.restart()
            self._fit_unit(unit, self._data(store, unit, clean, noisy), second=second)
            self._finished = self._met
            if self._checkpoints.is_due():
                self.keep()

    def _run(
        self,
        store: FeatureStore,
        start: Sequence[str],
        end: Sequence[str],
        features: tuple[list[Features], list[Features]],
    ) -> tuple[list[Features], list[Features]]:
        """Return the values of `end` by teacher and student, from theirs of `start`."""
        clean, noisy = (
            [store.run(cone(module, start, (name,)), found) for name in end]
            for module, found in zip(self._modules, features, strict=True)
        )
        return clean, noisy

    def _data(
        self, store: FeatureStore, unit: Unit, clean: list[Features], noisy: list[Features]
    ) -> _Data:
        wanted = cone(self._modules[0], unit.anchor, (unit.output,))
        target = store.run(wanted, clean)
        if unit.inputs != unit.anchor:
            clean, noisy = self._run(store, unit.anchor, unit.inputs, (clean, noisy))
        return _Data(clean, noisy, target, channel_axis(wanted))

    def _fit_unit(self, unit: Unit, data: _Data, *, second: bool) -> None:
        spec = self._spec
        part = cone(self._modules[1], unit.inputs, (unit.output,))
        fitting = Fitting(self._student, unit, part, spec)
        if not second:
            fitting.learn_weights()
            fitting.learn_biases(data.target.pick(torch.arange(min(len(data.target), spec.batch))))
        if second or spec.activations == "joint":
            keep = 1.0 if second else spec.keep
            fitting.learn_activations(self._learned, keep=keep, masks=self._masks)
        fitting.begin()
        suffix = None
        if spec.prediction > 0 and not second:
            suffix = suffix_of(self._problem.teacher, unit)
        if fitting.optimizer is None:
            self._progress.advance(spec.iterations)
            return
        every = max(1, spec.iterations // _ROWS)
        for step in range(spec.iterations):
            share = step / spec.iterations
            weighted = self._objective(fitting, part, suffix, data, share=share, second=second)
            loss, told = _total(unit, weighted)
            fitting.step(loss, share)
            self._progress.advance(loss=told["loss"])
            if step % every == 0 or step == spec.iterations - 1:
                self.history.append({"step": float(self._steps), **told})
            self._steps += 1
        fitting.finish()

    def _objective(
        self,
        fitting: Fitting,
        part: fx.GraphModule,
        suffix: fx.GraphModule | None,
        data: _Data,
        *,
        share: float,
        second: bool,
    ) -> dict[str, tuple[float, Tensor]]:
        """Return the terms of one step's loss with their weights."""
        spec = self._spec
        index = torch.randint(len(data.target), (spec.batch,), generator=self._generator)
        wanted = data.target.pick(index)
        clean = [item.pick(index) for item in data.clean]
        noisy = [item.pick(index) for item in data.noisy]
        prefix = 0.0 if second else spec.prefix
        x = [mix(a, b, prefix, self._masks) for a, b in zip(noisy, clean, strict=True)]
        if suffix is not None:  # the prediction is that of the quantized prefix alone
            x = [torch.cat(pair) for pair in zip(x, noisy, strict=True)]
        made = predicted = part(*x)[0]
        if suffix is not None:
            made, predicted = made.chunk(2)
        power = SECOND_POWER if second else 2.0
        terms = {"reconstruction": (1.0, channel_error(made, wanted, power, axis=data.axis))}
        beta = beta_at(share, start=spec.beta_start, end=spec.beta_end, warmup=spec.warmup)
        if fitting.soft and beta is not None:
            parts = [soft.regulariser(beta) for soft in fitting.soft.values()]
            terms["regulariser"] = (spec.regulariser, torch.stack(parts).sum())
        if suffix is not None:
            difference = prediction_difference(
                suffix,
                predicted,
                wanted,
                temperature=spec.temperature,
                has_classes=self._problem.samples.labels is not None,
            )
            terms["prediction"] = (spec.prediction, difference)
        return terms


def _total(
    unit: Unit, weighted: dict[str, tuple[float, Tensor]]
) -> tuple[Tensor, dict[str, float]]:
    """Return the loss, and the loss and its unweighted terms as numbers.

    Raises:
        BuildError: if it is not finite.
    """
    loss = torch.stack([weight * value for weight, value in weighted.values()]).sum()
    terms = {name: float(value.detach()) for name, (_, value) in weighted.items()}
    if not torch.isfinite(loss):
        raise BuildError(
            f"the reconstruction of '{unit.output}' is no longer finite: {terms}",
            why="scales or weights have run away",
            mend="lower --set reconstruction.rounding_rate and reconstruction.scale_rate, or take another --seed",
        )
    return loss, {"loss": loss.item(), **terms}
