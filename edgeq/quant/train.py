"""Zero-shot training of the student: first ranges, then weights, scales and biases together.

Main entry: `train_student`. The teacher runs once a step on the same augmented batch; nothing but the sample set is
ever read.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from edgeq.core.checkpoints import NO_CHECKPOINTS, Checkpoint, Checkpoints
from edgeq.core.errors import BuildError, InputError
from edgeq.core.plan import QuantPlan, Role
from edgeq.core.progress import NoProgress, Progress
from edgeq.core.recipes import RangesSpec, TrainingSpec
from edgeq.core.samples import SampleSet
from edgeq.core.seeds import derive_seed
from edgeq.core.specs import InputSpec
from edgeq.quant.batches import Batches
from edgeq.quant.objectives import (
    activation_map,
    activation_map_alignment,
    distillation,
    easy_cross_entropy,
    feature_alignment,
    mean_square,
    relative_error,
)
from edgeq.quant.optimizer_state import moved_by, optimizer_state, restore_optimizer
from edgeq.quant.student import SEARCHED, Student, first_scales
from edgeq.teacher.compute import PLAIN, Compute, make_adam, make_replayed_adam, set_rate
from edgeq.teacher.replay import Replay
from edgeq.teacher.teacher import Teacher, with_outputs
from edgeq.teacher.world import World

# The name of training's own state.
CHECKPOINT = "training"


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingProblem:
    """What is trained, and on what.

    Attributes:
        teacher: of the BN-folded graph that ships.
        plan: the placement on that graph.
        samples: the sample set.
        inputs: of the model, in file order.
        blocks: tensors whose values the student is to match.
        last_map: the last tensor with spatial axes, for class activation maps; None where there is none.
        compute: where the student is fitted and trained, in float32, and the processes that share each batch.
    """

    teacher: Teacher
    plan: QuantPlan
    samples: SampleSet
    inputs: tuple[InputSpec, ...]
    blocks: tuple[str, ...]
    last_map: str | None
    compute: Compute = PLAIN


def train_student(
    problem: TrainingProblem,
    spec: TrainingSpec,
    *,
    seed: int,
    progress: Progress | None = None,
    student: Student | None = None,
    checkpoints: Checkpoints = NO_CHECKPOINTS,
) -> tuple[Student, list[dict[str, float]]]:
    """Return the trained student and its loss terms over time.

    Args:
        problem: teacher, plan and sample set.
        spec: figures of the recipe.
        seed: of the build.
        progress: told the loss at every step.
        student: is trained further, in place; None makes one with searched ranges.
        checkpoints: where the state is kept now and then. One that is found there is gone on from, to the same bytes.

    Returns:
        student: after the last step (there is no choice of a best one: nothing to choose by).
        history: about 200 rows, evenly spaced: step and each unweighted term.

    Raises:
        BuildError: if the loss stops being finite.
        InputError: if there are more processes than samples in a batch.
    """
    progress = progress or NoProgress()
    device = problem.compute.device
    problem = dataclasses.replace(problem, teacher=problem.teacher.on(device))
    x = all_samples(problem)
    progress.start("train", max(spec.steps, 1), "step")
    student = student or first_student(problem, spec)
    history: list[dict[str, float]] = []
    world = problem.compute.world
    world.spread(student.teacher.module.parameters())
    loop = _Loop(problem, student, spec)
    batches = Batches(len(problem.samples), spec.batch, derive_seed(seed, "train"))
    first = 0
    if (kept := world.tell(checkpoints.load(CHECKPOINT))) is not None:
        restore_optimizer(loop.optimizer, kept.part("optimizer"))
        batches.restore(kept.part("batches"))
        history, first = kept.notes["history"], kept.notes["steps"]
        progress.advance(first)
    keep_every = max(1, spec.steps // 200)
    for step in range(first, spec.steps):
        index = batches.pick()
        own = world.part(len(index))
        _require_samples(own, world)
        whole = batches.show([item[index].float() for item in x], problem.inputs, spec)
        picked = [item[own] for item in whole]
        labels = None
        if problem.samples.labels is not None:
            labels = torch.from_numpy(problem.samples.labels)[index][own].to(device)
        part = len(picked[0]) / len(index)
        terms = loop.step(picked, labels, share=step / spec.steps, part=part)
        progress.advance(loss=terms["loss"])
        if step % keep_every == 0 or step == spec.steps - 1:
            history.append({"step": float(step), **terms})
        if world.rank == 0 and checkpoints.is_due():
            parts = {"optimizer": optimizer_state(loop.optimizer), "batches": batches.state()}
            notes = {"history": history, "steps": step + 1}
            checkpoints.save(CHECKPOINT, Checkpoint.of_parts(parts, notes))
    _require_finite(student)
    last = history[-1]["loss"] if history else math.nan
    began = f", after step {first} of an interrupted run" if first else ""
    progress.finish(
        f"{len(student.quantizers)} scales and {len(student.weights())} layers, loss {last:.4g}{began}"
        if history
        else f"{len(student.quantizers)} ranges set, no training step asked for"
    )
    return student, history


def first_student(
    problem: TrainingProblem, spec: TrainingSpec, ranges: RangesSpec = SEARCHED
) -> Student:
    """Return the student with its first scales, read from `spec.range_samples` samples as `ranges` says."""
    index = torch.from_numpy(problem.samples.share(spec.range_samples))
    shown = [torch.split(item[index].float(), spec.batch) for item in all_samples(problem)]
    batches = list(zip(*shown, strict=True))
    scales = first_scales(problem.teacher, problem.plan, batches, ranges)
    return Student(problem.teacher, problem.plan, scales)


def _require_samples(own: slice, world: World) -> None:
    """Raise if a process has no part of a batch."""
    if own.start == own.stop:
        raise InputError(
            f"{world.size} processes share batches of fewer samples in training",
            why="each of them needs one sample at least, and a larger batch is another method",
            mend="start fewer processes, or pass a larger --set training.batch",
        )


def _require_finite(student: Student) -> None:
    """Raise if the last step, whose loss nobody saw, left NaN or infinity in what is trained.

    A mask of the file's own may hold minus infinity.
    """
    for name, parameter in student.teacher.module.named_parameters():
        if parameter.requires_grad and not torch.isfinite(parameter).all():
            tensor = student.teacher.binding.get(name, name)
            raise BuildError(
                f"training left NaN or infinity in '{tensor}'",
                why="a gradient of the last step was not finite",
                mend="lower --set training.weight_rate and training.scale_rate, or try another --seed",
            )


class _Loop:
    """One optimiser over weights, scales and biases, and the objective.

    Attributes:
        optimizer: with the rates of the step that was made last.
    """

    def __init__(self, problem: TrainingProblem, student: Student, spec: TrainingSpec) -> None:
        self._spec = spec
        self._world = problem.compute.world
        watched = list(problem.blocks)
        self._map_index = None
        if problem.last_map is not None and spec.activation_map > 0:
            watched.append(problem.last_map)
            self._map_index = len(watched) - 1
        self._blocks = len(problem.blocks)
        self._inputs = len(problem.teacher.inputs)
        self._student = with_outputs(student.teacher, watched)
        self._teacher = with_outputs(problem.teacher, watched)
        if problem.last_map is not None and self._map_index is not None:
            _track_from(self._teacher, problem.teacher.fx_node_of[problem.last_map])
        groups = _groups(problem, student, spec)
        self._rates = [group["lr"] for group in groups]
        recorder = problem.compute.recorder()
        make = make_adam if recorder is None else make_replayed_adam
        self.optimizer = make(groups, betas=(0.9, 0.99))
        self._replay = Replay(self._move, self.optimizer, recorder)
        self._part = 1.0
        self._names: list[str] = []

    def step(
        self, x: Sequence[Tensor], labels: Tensor | None, *, share: float, part: float = 1.0
    ) -> dict[str, float]:
        """Train on one batch; `share` of the training is done. Return the terms of the loss.

        With several processes, `x` and `labels` are this one's `part` of the batch, a share of it; the terms are those
        of the whole.
        """
        for group, rate in zip(self.optimizer.param_groups, self._rates, strict=True):
            set_rate(group, rate * 0.5 * (1 + math.cos(math.pi * share)))
        self._part = part
        (made,) = self._replay([*x] if labels is None else [*x, labels])
        terms = dict(zip(["loss", *self._names], made.tolist(), strict=True))
        told = self._world.mean(terms, part)
        if not math.isfinite(told["loss"]):
            raise BuildError(
                f"the training loss is no longer finite: {terms}",
                why="weights or scales have run away",
                mend="lower --set training.weight_rate and training.scale_rate, or try another --seed",
            )
        return told

    def _move(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """Make one step on a batch, its labels last where there are any; return the loss and its unweighted terms."""
        count = self._inputs
        labels = inputs[count] if len(inputs) > count else None
        terms = self._objective(inputs[:count], labels, self._part)
        self._names = list(terms)
        loss = torch.stack([weight * value for weight, value in terms.values()]).sum()
        self.optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        self._world.add_gradients(moved_by(self.optimizer), self._part)
        self.optimizer.step()
        told = [loss, *(value for _, value in terms.values())]
        return [torch.stack([value.detach().float() for value in told])]

    def _objective(
        self, x: Sequence[Tensor], labels: Tensor | None, part: float
    ) -> dict[str, tuple[float, Tensor]]:
        """Return the terms of the loss with their weights."""
        spec = self._spec
        wanted, wanted_features = self._teacher(*x)
        wanted = [_in_float32(output) for output in wanted]
        wanted_map = None
        if self._map_index is not None:
            wanted_map = activation_map(wanted[0], wanted_features[self._map_index]).detach()
        targets = [output.detach() for output in wanted]
        outputs, features = self._student(*x)
        outputs = [_in_float32(output) for output in outputs]
        terms: dict[str, tuple[float, Tensor]] = {}
        if labels is not None:
            value = distillation(outputs[0], targets[0], spec.temperature)
            terms["distillation"] = (spec.distillation, value)
        # Class scores are compared by `distillation`; indices and masks of integers have no gradient.
        pairs = list(zip(outputs, targets, strict=True))[0 if labels is None else 1 :]
        pairs = [pair for pair in pairs if pair[0].is_floating_point()]
        compared = [*(b for _, b in pairs), *wanted_features[: self._blocks]]
        energies = self._energies(compared, part)
        errors = [relative_error(a, b, e) for (a, b), e in zip(pairs, energies, strict=False)]
        if errors:
            terms["outputs"] = (spec.distillation, torch.stack(errors).mean())
        if spec.features > 0 and self._blocks > 0:
            blocks = [feature.detach() for feature in wanted_features[: self._blocks]]
            value = feature_alignment(features[: self._blocks], blocks, energies[len(pairs) :])
            terms["features"] = (spec.features, value)
        if labels is not None and spec.hard_label > 0:
            value = easy_cross_entropy(outputs[0], targets[0], labels, spec.difficulty)
            terms["hard_label"] = (spec.hard_label, value)
        if wanted_map is not None and self._map_index is not None:
            found = activation_map(outputs[0], features[self._map_index])
            terms["activation_map"] = (
                spec.activation_map,
                activation_map_alignment(found, wanted_map),
            )
        return terms

    def _energies(self, compared: Sequence[Tensor], part: float) -> Sequence[Tensor | None]:
        """Return each tensor's mean square over the whole batch; None where this process has the whole of it."""
        if self._world.size == 1 or not compared:
            return [None] * len(compared)
        own = torch.stack([mean_square(item) for item in compared])
        return self._world.add(part * own).unbind()


def _track_from(module: fx.GraphModule, name: str) -> None:
    """Make autograd start at the fx node `name`: what comes after it is tracked, what comes before is not."""
    graph = module.graph
    node = next(item for item in graph.nodes if item.name == name)
    with graph.inserting_after(node):
        leaf = graph.call_function(_leaf, (node,))
    node.replace_all_uses_with(leaf, delete_user_cb=lambda user: user is not leaf)
    module.recompile()


def _leaf(x: Tensor) -> Tensor:
    return x.detach().requires_grad_(True)


def _groups(problem: TrainingProblem, student: Student, spec: TrainingSpec) -> list[dict[str, Any]]:
    """Return Adam's parameter groups with rates in the unit of what they move."""
    groups: list[dict[str, Any]] = []
    for tensor, weight in student.weights().items():
        step = float(student.quantizers[tensor].scale().detach().mean())
        weight.requires_grad_(True)
        groups.append({"params": [weight], "lr": spec.weight_rate * step})
    scales = [
        *student.parameters_of(Role.WEIGHT).values(),
        *student.parameters_of(Role.ACTIVATION).values(),
    ]
    for quantizer in student.quantizers.values():
        quantizer.log_scale.requires_grad_(False)
    for scale in scales:
        scale.requires_grad_(True)
    groups.append({"params": scales, "lr": spec.scale_rate})
    biases = student.biases()
    outputs = [output for _, output in biases.values()]
    module = with_outputs(problem.teacher, outputs)
    with torch.no_grad():
        _, values = module(*(item[: spec.batch].float() for item in all_samples(problem)))
    for (bias, _), value in zip(biases.values(), values, strict=True):
        bias.requires_grad_(True)
        groups.append({"params": [bias], "lr": spec.bias_rate * float(value.std(correction=0))})
    return groups


def all_samples(problem: TrainingProblem) -> list[Tensor]:
    """Return the samples of every input, in file order, in their own type, on the device.

    On the CPU they stay in their file: rows are read when they are picked, and then made float32.
    """
    feed, device = problem.samples.feed(), problem.compute.device
    return [torch.from_numpy(feed[name]).to(device) for name in problem.teacher.inputs]


def _in_float32(output: Tensor) -> Tensor:
    """Return an output of half precision in float32, in which losses do not overflow; others as they are."""
    return output.float() if output.is_floating_point() else output
