"""Synthesis on another device than the CPU: nothing is made in the wrong place, and nothing else changes."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from calib.estimate import with_targets
from calib.synthesize import synthesize
from edgeq.core.recipes import load_recipe
from edgeq.core.specs import BNTable, Layout
from edgeq.teacher.compute import Compute

SMALL = {"samples": 8, "batch": 4, "iterations": 3, "centre_iterations": 2}


def run(problem, spec):
    return synthesize(with_targets(problem, spec, seed=0), spec, seed=0)


def require_same(problem, spec, fake_device) -> None:
    """Raise unless the samples that are made on the device are those of the CPU."""
    wanted = run(problem, spec)
    with fake_device() as device:
        found = run(dataclasses.replace(problem, compute=Compute(device=device)), spec)
    # Not to the last bit: the CPU has a kernel for Adam that rounds elsewhere.
    span = float(np.ptp(wanted.samples))
    np.testing.assert_allclose(found.samples, wanted.samples, atol=1e-4 * span)
    assert np.array_equal(found.labels, wanted.labels)
    for row, expected in zip(found.history, wanted.history, strict=True):
        assert row == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("name", ["estimate", "genie", "gzsq", "leaves", "synq"])
def test_every_recipe_makes_the_samples_of_the_cpu(problem, fake_device, name):
    spec = dataclasses.replace(load_recipe(name).synthesis, **SMALL)
    require_same(problem, spec, fake_device)


@pytest.mark.parametrize("layout", [Layout.NCHW, Layout.NHWC])
def test_every_block_makes_the_samples_of_the_cpu(make_problem, make_spec, fake_device, layout):
    problem = make_problem(layout)
    blocks = {"soft_inception": 1.0, "margin": 1.0, "crop": 0.3, "swing": 1, "centres": "class"}
    spec = make_spec(iterations=3, centre_iterations=2, centre_texture=1.0, **blocks)
    require_same(problem, spec, fake_device)


def test_another_unit_makes_the_samples_of_the_cpu(problem, make_spec, fake_device):
    (own,) = problem.inputs
    pixels = dataclasses.replace(
        own, mean=(0.0,) * 3, std=(1 / 255,) * 3, low=(0.0,) * 3, high=(255.0,) * 3
    )
    problem = dataclasses.replace(problem, inputs=(pixels,))
    spec = make_spec(iterations=2)
    require_same(problem, spec, fake_device)


def test_a_file_without_statistics_makes_the_samples_of_the_cpu(problem, fake_device):
    bare = dataclasses.replace(problem, table=BNTable(entries=()))
    spec = dataclasses.replace(load_recipe("estimate").synthesis, **SMALL)
    require_same(bare, spec, fake_device)
