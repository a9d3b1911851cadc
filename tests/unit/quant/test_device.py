"""The numbers half on another device than the CPU: nothing is made in the wrong place, and the values are those."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from edgeq.core.recipes import CorrectionSpec, Recipe, load_recipe
from edgeq.quant.numbers import find_numbers
from edgeq.teacher.compute import Compute


def tiny(name: str, make_spec) -> Recipe:
    recipe = load_recipe(name)
    steps = min(recipe.training.steps, 3)
    iterations = min(recipe.reconstruction.iterations, 2)
    return dataclasses.replace(
        recipe,
        training=make_spec(steps=steps),
        reconstruction=dataclasses.replace(recipe.reconstruction, iterations=iterations, batch=8),
    )


def on_device(problem, device):
    return dataclasses.replace(problem, compute=Compute(device=device))


@pytest.mark.parametrize("name", ["edgeq", "kl", "dfq", "brecq", "aac-abn"])
def test_a_recipe_finds_the_values_of_the_cpu(
    make_case, make_problem, make_spec, fake_device, name
):
    problem, recipe = make_problem(make_case()), tiny(name, make_spec)
    wanted, history = find_numbers(problem, recipe, seed=0)
    with fake_device() as device:
        found, rows = find_numbers(on_device(problem, device), recipe, seed=0)
    expected = wanted.values()
    for tensor, scale in found.values().scales.items():
        np.testing.assert_allclose(scale, expected.scales[tensor], rtol=1e-4)
    for tensor, codes in found.values().codes.items():
        assert np.abs(codes.astype(int) - expected.codes[tensor]).max() <= 1
    for row, first in zip(rows, history, strict=True):
        assert row == pytest.approx(first, rel=1e-3, abs=1e-5)


@pytest.mark.parametrize("name", ["qdrop", "pd-quant", "genie-m"])
def test_values_that_are_dropped_by_chance_lie_on_the_device(
    make_case, make_problem, make_spec, fake_device, name
):
    problem = make_problem(make_case())
    with fake_device() as device:
        found, _ = find_numbers(on_device(problem, device), tiny(name, make_spec), seed=0)
    parameters = list(found.teacher.module.parameters())
    assert all(item.device == torch.device("cpu") for item in parameters)
    assert all(item.isfinite().all() for item in parameters)


def test_a_limited_scale_is_held_on_the_device(make_case, make_problem, make_spec, fake_device):
    problem, spec = make_problem(make_case()), tiny("mse", make_spec)
    recipe = dataclasses.replace(spec, correction=CorrectionSpec(bias=True, variance=True))
    limited = dataclasses.replace(
        problem,
        plan=dataclasses.replace(
            problem.plan,
            decisions=tuple(
                dataclasses.replace(item, owner=dataclasses.replace(item.owner, limit=0.5))
                if item.tensor == "r1"
                else item
                for item in problem.plan.decisions
            ),
        ),
    )
    with fake_device() as device:
        found, _ = find_numbers(on_device(limited, device), recipe, seed=0)
    assert 7 * float(found.values().scales["r1"]) <= 0.5001
