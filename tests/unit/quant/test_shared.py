"""Training by several processes: each has a part of every batch, and the values are those of one process."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

import edgeq.teacher.world
from edgeq.core import checkpoints
from edgeq.core.checkpoints import Checkpoints
from edgeq.core.errors import InputError
from edgeq.core.recipes import load_recipe
from edgeq.quant.numbers import find_numbers
from edgeq.quant.train import train_student
from edgeq.teacher.compute import Compute


def with_world(problem, world):
    return dataclasses.replace(problem, compute=Compute(world=world))


def require_near(found, history, wanted, expected) -> None:
    for row, first in zip(history, expected, strict=True):
        assert row == pytest.approx(first, rel=1e-4, abs=1e-6)
    for tensor, scale in found.scales.items():
        np.testing.assert_allclose(scale, wanted.scales[tensor], rtol=1e-4)
    for tensor, bias in found.floats.items():
        np.testing.assert_allclose(bias, wanted.floats[tensor], atol=1e-4)


@pytest.mark.parametrize("size", [2, 3])
def test_every_term_is_that_of_the_whole_batch(
    make_case, make_problem, make_spec, run_together, size
):
    problem, spec = (
        make_problem(make_case()),
        make_spec(),
    )  # batches of 8: three parts of them differ
    student, expected = train_student(problem, spec, seed=0)

    def work(world):
        found, history = train_student(with_world(problem, world), spec, seed=0)
        return found.values(), history

    outcomes = run_together(size, work)
    for values, history in outcomes:
        require_near(values, history, student.values(), expected)
    first, *others = [values for values, _ in outcomes]
    for other in others:
        assert all(
            other.codes[name].tobytes() == first.codes[name].tobytes() for name in first.codes
        )


def test_all_processes_go_on_from_the_checkpoint_of_the_first(
    make_case, make_problem, make_spec, run_together, monkeypatch, tmp_path
):
    monkeypatch.setattr(checkpoints, "EVERY_S", 0.0)
    problem, spec = make_problem(make_case()), make_spec()

    def work(world):
        kept = Checkpoints(tmp_path if world.rank == 0 else None, "key")
        shared = with_world(problem, world)
        found, history = train_student(shared, spec, seed=0, checkpoints=kept)
        return found.values(), history

    whole = run_together(2, work)
    for (values, history), (wanted, expected) in zip(run_together(2, work), whole, strict=True):
        assert history == expected
        assert all(
            values.codes[name].tobytes() == wanted.codes[name].tobytes() for name in wanted.codes
        )


def test_a_reconstruction_is_made_once_and_trained_by_all(
    make_case, make_problem, make_spec, run_together
):
    problem, recipe = make_problem(make_case()), load_recipe("qdrop")
    fitting = dataclasses.replace(recipe.reconstruction, iterations=2, batch=8)
    recipe = dataclasses.replace(recipe, reconstruction=fitting, training=make_spec(steps=2))
    student, expected = find_numbers(problem, recipe, seed=0)

    def work(world):
        found, history = find_numbers(with_world(problem, world), recipe, seed=0)
        return found.values(), history

    (first, history), (second, rows) = run_together(2, work)
    require_near(first, history, student.values(), expected)
    assert rows == history[-len(rows) :]  # the second process has seen no reconstruction
    assert all(second.codes[name].tobytes() == first.codes[name].tobytes() for name in first.codes)


def test_more_processes_than_samples_of_a_batch_are_refused(
    make_case, make_problem, make_spec, run_together, monkeypatch
):
    monkeypatch.setattr(edgeq.teacher.world, "MERCY_S", 0.0)
    problem, spec = make_problem(make_case()), make_spec(batch=1)

    def work(world):
        return train_student(with_world(problem, world), spec, seed=0)

    with pytest.raises(InputError, match="2 processes share batches of fewer samples"):
        run_together(2, work)
