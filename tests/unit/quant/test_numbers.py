"""Every numbers recipe ends in values that the writer takes."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from edgeq.core.recipes import Kind, list_recipes, load_recipe
from edgeq.quant.numbers import find_numbers
from edgeq.quant.train import train_student

NUMBERS = [item.name for item in list_recipes() if item.kind is not Kind.DATA]


def short(name):
    recipe = load_recipe(name, settings={"training.range_samples": "16", "training.batch": "8"})
    fewer = min(recipe.reconstruction.iterations, 2)
    return dataclasses.replace(
        recipe,
        reconstruction=dataclasses.replace(recipe.reconstruction, iterations=fewer, batch=8),
        training=dataclasses.replace(recipe.training, steps=min(recipe.training.steps, 2)),
    )


@pytest.mark.parametrize("name", NUMBERS)
def test_every_recipe_gives_complete_values(make_case, make_problem, name):
    case = make_case("w4a4")
    student, history = find_numbers(make_problem(case), short(name), seed=0)
    values = student.values()
    values.require_complete(case.plan)
    assert all(np.isfinite(scale).all() for scale in values.scales.values())
    assert all(np.isfinite(row["loss"]) for row in history)


@pytest.mark.parametrize(("bits", "moves"), [("w8a8", False), ("w4a8", False), ("w4a4", True)])
def test_the_default_brings_channels_of_coarse_grids_to_one_size(
    make_case, make_problem, bits, moves
):
    student, _ = find_numbers(make_problem(make_case(bits)), short("edgeq"), seed=0)
    assert bool(student.channel_factors) is moves


def test_at_8_bits_the_default_is_its_training_and_nothing_else(make_case, make_problem):
    problem, recipe = make_problem(make_case("w8a8")), short("edgeq")
    found = find_numbers(problem, recipe, seed=0)[0].values()
    expected = train_student(problem, recipe.training, seed=0)[0].values()
    assert all(np.array_equal(found.codes[name], expected.codes[name]) for name in found.codes)
    assert all(np.array_equal(found.scales[name], expected.scales[name]) for name in found.scales)


def test_reconstruction_and_training_can_follow_each_other(make_case, make_problem):
    recipe = dataclasses.replace(short("qdrop"), training=short("edgeq").training)
    _, history = find_numbers(make_problem(make_case("w4a4")), recipe, seed=0)
    assert "reconstruction" in history[0]
    assert "distillation" in history[-1]
