"""The numbers half of a recipe, from first scales to the student that is written.

Entry: `find_numbers`. The parts come in the order in which published methods have them: equalization, first ranges,
reconstruction, training, correction. Each is off where the recipe leaves it out.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from edgeq.core.checkpoints import NO_CHECKPOINTS, Checkpoints
from edgeq.core.progress import NoProgress, Progress
from edgeq.core.recipes import RangesSpec, Recipe
from edgeq.quant.channels import coarse_activations, equalize_activations
from edgeq.quant.correct import correct_outputs
from edgeq.quant.equalize import channel_factors, equalize
from edgeq.quant.reconstruct import reconstruct
from edgeq.quant.student import Student
from edgeq.quant.train import TrainingProblem, all_samples, first_student, train_student
from edgeq.teacher.compute import CPU
from edgeq.teacher.teacher import Teacher

# Samples that the sizes of channels are read from.
EQUALIZED_ON = 64


def find_numbers(
    problem: TrainingProblem,
    recipe: Recipe,
    *,
    seed: int,
    progress: Progress | None = None,
    checkpoints: Checkpoints = NO_CHECKPOINTS,
) -> tuple[Student, list[dict[str, float]]]:
    """Return the student with its final scales, weights and biases, on the CPU, and the losses on the way.

    Args:
        problem: teacher, plan and sample set.
        recipe: whose numbers half is followed.
        seed: of the build.
        progress: told of every loop.
        checkpoints: of reconstruction and training, which go on from those that are found.

    Raises:
        BuildError: if a loss stops being finite.
    """
    progress = progress or NoProgress()
    problem = dataclasses.replace(problem, teacher=problem.teacher.on(problem.compute.device))
    x = all_samples(problem)
    few = [item[:EQUALIZED_ON].float() for item in x]
    teacher = _equalized(problem, recipe.ranges, few)
    factors = {}
    if teacher is not problem.teacher:
        factors = channel_factors(problem.teacher, teacher, few)
        problem = dataclasses.replace(problem, teacher=teacher)
    training = recipe.training
    student = first_student(problem, training, recipe.ranges)
    student.channel_factors = factors
    history: list[dict[str, float]] = []
    # Units follow each other, and each is small: rank 0 fits them, the others get its student when training begins.
    if recipe.reconstruction.iterations and problem.compute.world.rank == 0:
        history += reconstruct(
            problem,
            student,
            x,
            recipe.reconstruction,
            seed=seed,
            progress=progress,
            checkpoints=checkpoints,
        )
    if training.steps or not recipe.reconstruction.iterations:
        student, rows = train_student(
            problem,
            training,
            seed=seed,
            progress=progress,
            student=student,
            checkpoints=checkpoints,
        )
        history += rows
    if recipe.correction.bias or recipe.correction.variance:
        index = torch.from_numpy(problem.samples.share(training.range_samples))
        limited = [item[index].float() for item in x]
        correct_outputs(problem, student, limited, recipe.correction, batch=training.batch)
    student.teacher.module.to(CPU)
    return student, history


def _equalized(problem: TrainingProblem, spec: RangesSpec, few: Sequence[Tensor]) -> Teacher:
    """Return the teacher after the equalizations that a recipe has: of the same function, itself where it has none."""
    teacher = problem.teacher
    if spec.equalize:
        teacher, _ = equalize(teacher, problem.plan)
    if spec.equalize_activations > 0 and coarse_activations(problem.plan):
        teacher, _ = equalize_activations(teacher, problem.plan, few, spec.equalize_activations)
    return teacher
