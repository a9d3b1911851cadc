"""Label terms against values worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from calib.labels import draw_confidence, hard_cross_entropy, soft_inception

# The probabilities of these two samples are 0.8, 0.2 and 0.5, 0.5.
LOGITS = torch.tensor([[math.log(4.0), 0.0], [0.0, 0.0]])
LABELS = torch.tensor([0, 1])


def test_without_a_power_it_is_the_cross_entropy():
    found = hard_cross_entropy(LOGITS, LABELS, power=0)
    assert float(found) == pytest.approx(-(math.log(0.8) + math.log(0.5)) / 2, rel=1e-6)


@pytest.mark.parametrize("power", [0.5, 1.0, 2.0])
def test_each_sample_counts_by_the_power_of_its_difficulty(power):
    wanted = -(0.2**power * math.log(0.8) + 0.5**power * math.log(0.5)) / 2
    assert float(hard_cross_entropy(LOGITS, LABELS, power=power)) == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("power", [0.5, 2.0])
def test_a_sample_of_full_confidence_has_a_finite_gradient(power):
    logits = torch.tensor([[100.0, 0.0], [1.0, 0.0]], requires_grad=True)
    torch.autograd.backward(hard_cross_entropy(logits, torch.tensor([0, 0]), power=power))
    assert logits.grad.isfinite().all()
    assert logits.grad[1, 0] < 0


def test_soft_inception_is_the_squared_distance_from_the_wanted_confidence():
    found = soft_inception(LOGITS, LABELS, torch.tensor([1.0, 0.4]))
    assert float(found) == pytest.approx((0.2**2 + 0.1**2) / 2, rel=1e-5)


def test_half_of_the_samples_have_a_confidence_below_one():
    drawn = draw_confidence(4000, 0.6, torch.Generator().manual_seed(0))
    soft = drawn[drawn < 1]
    assert len(soft) == pytest.approx(2000, rel=0.1)
    assert float(soft.min()) >= 0.6
    assert float(soft.mean()) == pytest.approx(0.8, abs=0.01)
    assert (draw_confidence(50, 1.0, torch.Generator().manual_seed(0)) == 1).all()
