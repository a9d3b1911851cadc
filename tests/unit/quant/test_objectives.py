"""Each objective against its equation."""

from __future__ import annotations

import math

import pytest
import torch

from edgeq.quant.objectives import (
    activation_map,
    activation_map_alignment,
    distillation,
    easy_cross_entropy,
    feature_alignment,
    relative_error,
)


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_distillation_is_the_sum_over_classes_and_the_mean_over_samples():
    student, teacher = randn(6, 5), randn(6, 5, seed=1)
    p, q = (teacher / 3).softmax(1), (student / 3).softmax(1)
    wanted = 9 * (p * (p / q).log()).sum(1).mean()
    torch.testing.assert_close(distillation(student, teacher, 3.0), wanted)


def test_distillation_of_equal_logits_is_zero_whatever_their_offset():
    logits = randn(6, 5)
    assert abs(float(distillation(logits + 3, logits, 4.0))) < 1e-12


def test_a_hot_distillation_is_half_the_variance_of_the_difference():
    teacher = randn(6, 5)
    difference = randn(6, 5, seed=1).clamp(-1, 1)
    found = distillation(teacher + difference, teacher, 1e3)
    wanted = difference.var(1, correction=0).mean() / 2
    torch.testing.assert_close(found, wanted, rtol=1e-2, atol=0)


def test_difficult_samples_have_no_gradient_and_easy_ones_are_divided_by_all():
    student = randn(4, 3).requires_grad_(True)
    teacher = torch.tensor([[9.0, 0, 0], [0, 9, 0], [0, 0, 9], [9, 0, 0]], dtype=torch.float64)
    labels = torch.tensor([0, 1, 0, 1])
    loss = easy_cross_entropy(student, teacher, labels, 0.5)
    wanted = -student.log_softmax(1)[[0, 1], [0, 1]].sum() / 4
    torch.testing.assert_close(loss, wanted)
    torch.autograd.backward(loss)
    assert student.grad[:2].abs().sum(1).min() > 0
    assert not student.grad[2:].any()


@pytest.mark.parametrize(("threshold", "easy"), [(0.0, 0), (0.5, 1), (0.75, 2), (1.0, 3)])
def test_a_sample_is_easy_up_to_the_threshold(threshold, easy):
    confidence = torch.tensor([0.75, 0.25, 0.125], dtype=torch.float64)
    rest = (1 - confidence) / 2
    teacher = torch.stack([confidence, rest, rest], 1).log()
    loss = easy_cross_entropy(
        torch.zeros(3, 3), teacher, torch.zeros(3, dtype=torch.int64), threshold
    )
    assert float(loss) == pytest.approx(easy * math.log(3) / 3)


def test_the_relative_error_does_not_depend_on_the_unit():
    student, teacher = randn(3, 4), randn(3, 4, seed=1)
    wanted = float(((student - teacher) ** 2).sum() / (teacher**2).sum())
    assert float(relative_error(student, teacher)) == pytest.approx(wanted)
    assert float(relative_error(student * 100, teacher * 100)) == pytest.approx(wanted)
    assert float(relative_error(teacher, teacher)) == 0


def test_the_relative_error_of_a_dead_teacher_is_finite():
    assert math.isfinite(float(relative_error(torch.zeros(3), torch.zeros(3))))


def test_feature_alignment_is_the_mean_over_blocks():
    student = [randn(2, 3), randn(2, 4, 5, 5)]
    teacher = [randn(2, 3, seed=1), randn(2, 4, 5, 5, seed=2)]
    errors = [relative_error(a, b) for a, b in zip(student, teacher, strict=True)]
    torch.testing.assert_close(feature_alignment(student, teacher), (errors[0] + errors[1]) / 2)
    assert float(feature_alignment(teacher, teacher)) == 0


def map_of(weights: torch.Tensor, *, seed: int = 0) -> torch.Tensor:
    """Return the map of a classifier that averages over positions."""
    features = randn(3, 4, 5, 5, seed=seed).relu().requires_grad_(True)
    return activation_map(features.mean((2, 3)) @ weights.T, features).detach()


def test_a_map_spans_zero_to_one_for_each_sample():
    found = map_of(randn(6, 4))
    assert found.shape == (3, 5, 5)
    torch.testing.assert_close(found.amin((1, 2)), torch.zeros(3, dtype=torch.float64))
    torch.testing.assert_close(found.amax((1, 2)), torch.ones(3, dtype=torch.float64))


def test_a_map_is_the_features_weighted_by_the_positive_gradients_of_the_top_class():
    weights = randn(6, 4)
    features = randn(3, 4, 5, 5).relu().requires_grad_(True)
    logits = features.mean((2, 3)) @ weights.T
    found = activation_map(logits, features)
    alpha = weights[logits.argmax(1)].clamp_min(0)[:, :, None, None]
    wanted = (alpha * features).sum(1).relu()
    low, high = (edge((1, 2), keepdim=True) for edge in (wanted.amin, wanted.amax))
    torch.testing.assert_close(found, (wanted - low) / (high - low))


def test_a_map_without_any_positive_gradient_is_zero_not_nan():
    found = map_of(-randn(6, 4).abs())
    assert torch.equal(found, torch.zeros_like(found))


def test_maps_of_equal_networks_agree_and_others_do_not():
    weights = randn(6, 4)
    own = map_of(weights)
    assert float(activation_map_alignment(own, map_of(weights))) == 0
    other = map_of(weights, seed=3)
    torch.testing.assert_close(activation_map_alignment(own, other), ((own - other) ** 2).mean())
    assert float(activation_map_alignment(own, other)) > 0.01


def test_the_gradient_of_the_alignment_reaches_the_network_before_the_features():
    x = randn(3, 4, 5, 5).requires_grad_(True)
    features = (x * 2).relu()
    found = activation_map(features.mean((2, 3)) @ randn(6, 4).T, features)
    wanted = map_of(randn(6, 4), seed=3)
    torch.autograd.backward(activation_map_alignment(found, wanted))
    assert torch.isfinite(x.grad).all()
    assert x.grad.abs().max() > 0
