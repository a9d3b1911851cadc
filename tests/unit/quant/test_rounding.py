"""Learned rounding starts at the float weight, and ends on the grid."""

from __future__ import annotations

import pytest
import torch

from edgeq.core.plan import Grid
from edgeq.quant.fake_quant import FakeQuantizer
from edgeq.quant.rounding import (
    SoftRounding,
    beta_at,
    inverse_rectified_sigmoid,
    rectified_sigmoid,
    rounding_regulariser,
)

GRID = Grid(bits=4, narrow=True, axis=0)


def make(scale: float = 0.1) -> tuple[FakeQuantizer, torch.Tensor]:
    weight = torch.rand(3, 5, generator=torch.Generator().manual_seed(1)) - 0.5
    return FakeQuantizer(GRID, torch.full((3,), scale), ndim=2), weight


def test_the_inverse_gives_back_every_share():
    share = torch.linspace(0, 0.999, 50)
    found = rectified_sigmoid(inverse_rectified_sigmoid(share))
    torch.testing.assert_close(found, share, atol=1e-6, rtol=0)


def test_it_starts_as_the_float_weight():
    quantizer, weight = make()
    torch.testing.assert_close(SoftRounding(quantizer, weight)(weight), weight, atol=1e-6, rtol=0)


def test_unlearned_it_rounds_to_nearest():
    quantizer, weight = make()
    soft = SoftRounding(quantizer, weight)
    assert torch.equal(soft.codes(), quantizer.codes(weight))


def test_its_codes_are_what_the_writer_makes_of_the_hard_weight():
    quantizer, weight = make()
    soft = SoftRounding(quantizer, weight)
    with torch.no_grad():
        soft.v.neg_()  # every weight the other way
        quantizer.log_scale.add_(0.03)
    assert not torch.equal(soft.codes(), quantizer.codes(weight))
    assert torch.equal(quantizer.codes(soft.hard()), soft.codes())


def test_codes_stay_on_the_grid():
    quantizer, weight = make(scale=0.01)
    codes = SoftRounding(quantizer, weight).codes()
    assert int(codes.min()) == GRID.low
    assert int(codes.max()) == GRID.high


def test_the_gradient_of_the_scale_is_the_whole_code():
    quantizer, weight = make()
    soft = SoftRounding(quantizer, weight)
    made = soft(weight)
    torch.autograd.backward(made.sum())
    expected = made.detach().sum(1)  # d / d log s = s times the code
    torch.testing.assert_close(quantizer.log_scale.grad, expected)


@pytest.mark.parametrize("axis", [None, 0])
@pytest.mark.parametrize("weighs", [0.0, 0.1])
def test_the_gradients_are_those_of_the_equations(axis, weighs):
    """Weights of 0, and below, on and above both ends of the grid, are among them."""
    scale = torch.tensor(0.1) if axis is None else torch.tensor([0.1, 0.2, 0.05])
    quantizer = FakeQuantizer(Grid(bits=4, narrow=True, axis=axis), scale, ndim=2)
    weight = torch.cat([make()[1], torch.tensor([[-2.0, 0.0, 2.0, 0.7, -0.7]]).expand(3, 5)], 1)
    grad = torch.randn(weight.shape, generator=torch.Generator().manual_seed(2))
    soft = SoftRounding(quantizer, weight)
    torch.autograd.backward((soft(weight) * grad).sum() + weighs * soft.regulariser(7.3))
    v, log_scale = (p.detach().clone().requires_grad_(True) for p in (soft.v, quantizer.log_scale))
    shaped = log_scale.exp() if axis is None else log_scale.exp()[:, None]
    first = scale if axis is None else scale[:, None]
    h = rectified_sigmoid(v)
    written = shaped * ((weight / first.log().exp()).floor() + h).clamp(GRID.low, GRID.high)
    pull = (1 - (2 * h - 1).abs().pow(7.3)).sum()
    torch.autograd.backward((written * grad).sum() + weighs * pull)
    torch.testing.assert_close(soft(weight), written)
    torch.testing.assert_close(soft.regulariser(7.3), pull)
    torch.testing.assert_close(soft.v.grad, v.grad)
    torch.testing.assert_close(quantizer.log_scale.grad, log_scale.grad)


def test_the_regulariser_at_two_is_that_of_the_equation():
    h = torch.tensor([0.0, 0.25, 0.5, 1.0])
    assert float(rounding_regulariser(h, 2.0)) == pytest.approx(0.75 + 1.0)


def test_the_regulariser_pulls_every_weight_to_a_code():
    quantizer, weight = make()
    soft = SoftRounding(quantizer, weight)
    optimizer = torch.optim.Adam([soft.v], lr=0.1)
    for _ in range(100):
        optimizer.zero_grad()
        soft(weight)
        torch.autograd.backward(soft.regulariser(2.0))
        optimizer.step()
    torch.testing.assert_close(soft(weight), soft.hard())


@pytest.mark.parametrize(
    ("share", "beta"), [(0.0, None), (0.19, None), (0.2, 20.0), (0.6, 11.0), (1.0, 2.0)]
)
def test_beta_waits_and_then_falls_on_a_line(share, beta):
    found = beta_at(share, start=20.0, end=2.0, warmup=0.2)
    assert found == (None if beta is None else pytest.approx(beta))
