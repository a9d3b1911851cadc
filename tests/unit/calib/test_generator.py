"""Genie-D's generator: pictures of any size and layout, of mean 0 and variance 1."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from calib.generator import LATENT, make_generator
from edgeq.core.errors import CalibError
from edgeq.core.specs import Layout


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("size", [(8, 8), (9, 14)], ids=str)
@pytest.mark.parametrize("layout", [Layout.NCHW, Layout.NHWC], ids=str)
def test_pictures_have_the_inputs_shape_and_about_unit_variance(problem, size, layout):
    shape = (*size, 3) if layout is Layout.NHWC else (3, *size)
    own = dataclasses.replace(problem.inputs[0], shape=shape, layout=layout)
    found = make_generator(own, seeded())(torch.randn(16, LATENT, generator=seeded()))
    assert found.shape == (16, *shape)
    axes = (0, 1, 2) if layout is Layout.NHWC else (0, 2, 3)
    var, mean = torch.var_mean(found, axes)
    torch.testing.assert_close(mean, torch.zeros(3), atol=0.15, rtol=0)
    torch.testing.assert_close(var, torch.ones(3), atol=0.15, rtol=0)


def test_one_picture_of_four_pixels_a_side_is_refused_and_two_are_drawn(problem):
    own = dataclasses.replace(problem.inputs[0], shape=(3, 4, 4))
    generator = make_generator(own, seeded())
    with pytest.raises(CalibError, match="one picture of 4x4 alone"):
        generator(torch.randn(1, LATENT))
    assert generator(torch.randn(2, LATENT)).shape == (2, 3, 4, 4)


def test_the_weights_depend_on_the_generator_alone(problem):
    own = problem.inputs[0]
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = make_generator(own, seeded())
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    again, other = make_generator(own, seeded()), make_generator(own, seeded(1))
    assert torch.equal(first.spread.weight, again.spread.weight)
    assert not torch.equal(first.spread.weight, other.spread.weight)


def test_what_is_no_picture_has_no_generator(problem):
    own = dataclasses.replace(problem.inputs[0], layout=Layout.OTHER)
    with pytest.raises(CalibError, match="no picture") as caught:
        make_generator(own, seeded())
    assert "--recipe zeroq" in caught.value.mend
