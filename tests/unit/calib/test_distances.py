"""Distances of statistics against values worked out by hand, for a batch and for samples."""

from __future__ import annotations

import pytest
import torch

from calib.distances import DISTANCES, std_distance, variance_distance
from calib.statistics import LayerStatistics, batch_term, by_layer, measure, with_slack

TARGET = LayerStatistics(mean=torch.tensor([0.0, 1.0]), std=torch.tensor([2.0, 1.0]))
MEAN, VAR = torch.tensor([3.0, 0.5]), torch.tensor([1.0, 4.0])


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_the_std_distance_is_that_of_its_equation():
    # Means are 3 and 0.5 away, deviations 1 and 1.
    assert std_distance(MEAN, VAR, TARGET).tolist() == pytest.approx([9 + 1, 0.25 + 1], rel=1e-4)


def test_the_variance_distance_is_that_of_its_equation():
    # Variances are 3 and 3 away.
    assert variance_distance(MEAN, VAR, TARGET).tolist() == pytest.approx([9 + 9, 0.25 + 9])


def test_slack_is_let_pass_in_the_unit_of_the_activation():
    loose = LayerStatistics(mean=TARGET.mean, std=TARGET.std, mean_slack=1.0, std_slack=0.5)
    assert std_distance(MEAN, VAR, loose).tolist() == pytest.approx([4 + 0.25, 0 + 0.25], rel=1e-4)


@pytest.mark.parametrize("name", DISTANCES)
def test_the_batch_of_the_statistics_is_at_no_distance_from_them(name):
    found = measure(randn(6, 3, 4, 4))
    target = LayerStatistics(mean=found.mean, std=found.var.sqrt())
    assert float(DISTANCES[name](found.mean, found.var, target).max()) < 1e-8


@pytest.mark.parametrize("name", DISTANCES)
def test_each_sample_has_a_distance_of_its_own(name):
    found = measure(randn(6, 2, 4, 4))
    rows = DISTANCES[name](found.sample_mean, found.sample_var, TARGET)
    assert rows.shape == (6, 2)
    one = DISTANCES[name](found.sample_mean[3], found.sample_var[3], TARGET)
    torch.testing.assert_close(rows[3], one)


def test_layers_of_any_width_have_one_distance_each():
    wide = LayerStatistics(mean=randn(5), std=randn(5, seed=1).abs(), mean_slack=0.2, std_slack=0.1)
    found = [measure(randn(6, c, 4, 4, seed=c)) for c in (2, 5)]
    means, variances = [m.sample_mean for m in found], [m.sample_var for m in found]
    rows = [
        std_distance(mean, var, target)
        for mean, var, target in zip(means, variances, (TARGET, wide), strict=True)
    ]
    joined = by_layer(means, variances, (TARGET, wide), std_distance)
    torch.testing.assert_close(joined, torch.stack([row.mean(-1) for row in rows], 1))
    summed = by_layer(means, variances, (TARGET, wide), std_distance, sum_channels=True)
    torch.testing.assert_close(summed, torch.stack([row.sum(-1) for row in rows], 1))


def test_layers_are_weighted_one_by_one():
    moments = [measure(randn(5, 2, 3, 3, seed=seed)) for seed in (0, 1)]
    losses = [std_distance(m.mean, m.var, TARGET).mean() for m in moments]
    found = batch_term(moments, [TARGET] * 2, distance=std_distance, weights=(0.2, 1.1))
    torch.testing.assert_close(found, (0.2 * losses[0] + 1.1 * losses[1]) / 2)


def test_absolute_slack_is_the_relative_one_times_the_deviation():
    noise = [measure(randn(32, 2, 4, 4))]
    target = LayerStatistics(mean=torch.zeros(2), std=torch.full((2,), 4.0))
    (relative,) = with_slack([target], noise, quantile=0.9)
    (absolute,) = with_slack([target], noise, quantile=0.9, relative=False)
    assert absolute.mean_slack == pytest.approx(4 * relative.mean_slack, rel=1e-5)
    assert absolute.std_slack == pytest.approx(4 * relative.std_slack, rel=1e-5)
    assert float(batch_term(noise, [absolute], distance=std_distance)) < float(
        batch_term(noise, [target], distance=std_distance)
    )
