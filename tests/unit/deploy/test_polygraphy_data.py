from __future__ import annotations

import numpy as np
import pytest
from polygraphy.comparator import RunResults
from polygraphy.json import from_json

from deploy.polygraphy_data import inputs_json, outputs_json


@pytest.fixture
def iterations():
    rng = np.random.default_rng(0)
    return [{"x": rng.standard_normal((1, 3, 4)).astype(np.float32)} for _ in range(3)]


def test_polygraphy_reads_the_inputs_back(iterations):
    got = from_json(inputs_json(iterations).decode())
    assert len(got) == 3
    for want, have in zip(iterations, got, strict=True):
        np.testing.assert_array_equal(have["x"], want["x"])


def test_polygraphy_reads_the_outputs_back_under_the_name_of_the_runner(iterations):
    got = RunResults.from_json(outputs_json(iterations, runner="teacher").decode())
    assert list(got.keys()) == ["teacher"]
    for want, have in zip(iterations, got["teacher"], strict=True):
        np.testing.assert_array_equal(have["x"], want["x"])


def test_bytes_are_the_same_twice(iterations):
    assert inputs_json(iterations) == inputs_json(iterations)
    assert outputs_json(iterations, runner="t") == outputs_json(iterations, runner="t")
