"""The statistics terms against torch's own moments and the equations of their docstrings."""

from __future__ import annotations

import math

import pytest
import torch

from calib.distances import DISTANCES
from calib.statistics import (
    VARIANCE_FLOOR,
    LayerStatistics,
    Moments,
    batch_term,
    deviation,
    measure,
    pool_batches,
    pooled_deviation,
    sample_term,
    targets_from_table,
    with_slack,
)
from edgeq.core.errors import CalibError
from edgeq.core.specs import BNEntry, BNTable
from edgeq.teacher.teacher import with_outputs

SHAPES = [(6, 3, 4, 5), (6, 3, 7), (6, 3)]


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def activations(*, seed: int = 0) -> list[torch.Tensor]:
    return [randn(5, 3, 4, 4, seed=seed) * 2 + 1, randn(5, 6, 2, 2, seed=seed + 1) / 3]


def matching(moments: Moments) -> LayerStatistics:
    return LayerStatistics(mean=moments.mean, std=(moments.var + VARIANCE_FLOOR).sqrt())


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_batchs_moments_are_torchs_mean_and_biased_variance(shape):
    a = randn(*shape) * 3 + 5
    found = measure(a)
    axes = [axis for axis in range(a.ndim) if axis != 1]
    torch.testing.assert_close(found.mean, a.double().mean(axes).float())
    torch.testing.assert_close(found.var, a.double().var(axes, correction=0).float())


def test_the_samples_moments_are_torchs_over_the_positions():
    a = randn(6, 3, 4, 5)
    found = measure(a)
    torch.testing.assert_close(found.sample_mean, a.mean((2, 3)))
    torch.testing.assert_close(found.sample_var, a.var((2, 3), correction=0))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_gradients_of_the_moments_are_torchs(shape):
    a = randn(*shape).double().requires_grad_(True)
    axes = [axis for axis in range(a.ndim) if axis != 1]
    weights = randn(2, shape[1], seed=1).double()
    found = measure(a)
    torch.autograd.backward((found.mean * weights[0] + found.var * weights[1]).sum())
    b = a.detach().clone().requires_grad_(True)
    var, mean = torch.var_mean(b, axes, correction=0)
    torch.autograd.backward((mean * weights[0] + var * weights[1]).sum())
    torch.testing.assert_close(a.grad, b.grad)


def test_the_gradients_of_the_samples_moments_are_torchs():
    a = randn(6, 3, 4, 5).double().requires_grad_(True)
    weights = randn(2, 6, 3, seed=1).double()
    found = measure(a)
    torch.autograd.backward((found.sample_mean * weights[0] + found.sample_var * weights[1]).sum())
    b = a.detach().clone().requires_grad_(True)
    var, mean = torch.var_mean(b, (2, 3), correction=0)
    torch.autograd.backward((mean * weights[0] + var * weights[1]).sum())
    torch.testing.assert_close(a.grad, b.grad)


def test_a_variance_that_is_small_beside_the_mean_is_still_found():
    """Activations in front of a BatchNormalization may sit twenty standard deviations from zero."""
    a = randn(8, 3, 16, 16) + 20
    exact = a.double().var((0, 2, 3), correction=0).float()
    torch.testing.assert_close(measure(a).var, exact, rtol=1e-3, atol=0)


@pytest.mark.parametrize("positions", [(), (1,), (1, 1)])
def test_without_positions_a_sample_has_no_moments(positions):
    a = randn(6, 3)
    found = measure(a.view(6, 3, *positions))
    assert found.sample_mean is None
    assert found.sample_var is None
    torch.testing.assert_close((found.var, found.mean), torch.var_mean(a, 0, correction=0))


def test_the_table_becomes_targets_with_eps_inside_the_root():
    entry = BNEntry(tensor="t", node="n", mean=(1.0, 2.0), var=(3.0, 0.0), eps=1.0, source="node")
    (target,) = targets_from_table(BNTable(entries=(entry,)))
    assert target.mean.tolist() == [1.0, 2.0]
    assert target.std.tolist() == [2.0, 1.0]
    assert (target.mean_slack, target.std_slack) == (0.0, 0.0)


def test_the_deviation_is_that_of_its_equation():
    target = LayerStatistics(
        mean=torch.tensor([0.0, 1.0]),
        std=torch.tensor([2.0, 1.0]),
        mean_slack=0.5,
        std_slack=0.25,
    )
    mean, var = torch.tensor([3.0, 0.75]), torch.tensor([1.0, 4.0])
    # means are 1.5 and 0.25 std away, stds 0.5 and 1: behind the slacks 1, 0, 0.25 and 0.75 are left.
    wanted = [1.0**2 + 0.25**2, 0.0**2 + 0.75**2]
    assert deviation(mean, var, target).tolist() == pytest.approx(wanted, rel=1e-5)


def test_the_deviation_does_not_depend_on_the_layers_unit():
    a = randn(6, 3, 4, 4)
    target = LayerStatistics(mean=torch.ones(3), std=torch.full((3,), 2.0))
    large = LayerStatistics(mean=torch.ones(3) * 100, std=torch.full((3,), 200.0))
    small, big = measure(a), measure(a * 100)
    torch.testing.assert_close(
        deviation(small.mean, small.var, target),
        deviation(big.mean, big.var, large),
        rtol=1e-4,
        atol=0,
    )


def test_the_batch_term_is_the_mean_over_layers_and_zero_for_the_batch_itself():
    moments = [measure(a) for a in activations()]
    targets = [matching(item) for item in moments]
    assert float(batch_term(moments, targets)) < 1e-10
    others = [measure(a + 1) for a in activations()]
    losses = [deviation(m.mean, m.var, t).mean() for m, t in zip(others, targets, strict=True)]
    assert float(batch_term(others, targets)) == pytest.approx(
        float(losses[0] + losses[1]) / 2, rel=1e-6
    )
    assert float(batch_term(others, targets)) > 0.1


def test_the_batch_that_set_the_statistics_of_a_network_has_no_loss(problem, training_batch):
    names = [entry.tensor for entry in problem.table.entries]
    targets = targets_from_table(problem.table)
    module = with_outputs(problem.teacher, names)
    with torch.no_grad():
        own = batch_term([measure(a) for a in module(training_batch)[1]], targets)
        noise = batch_term([measure(a) for a in module(randn(32, 3, 8, 8))[1]], targets)
    assert float(own) < 1e-9
    assert float(noise) > 0.01


def test_the_sample_term_is_zero_where_each_sample_has_the_statistics():
    sample = randn(1, 3, 4, 4)
    moments = [measure(sample.repeat(5, 1, 1, 1))]
    assert float(sample_term(moments, [matching(moments[0])], enhancement=2.0)) < 1e-10
    spread = [measure(activations()[0])]
    assert float(sample_term(spread, [matching(spread[0])], enhancement=2.0)) > 0.01


def test_sample_i_pays_layer_i_mod_l_more():
    found = [measure(a) for a in activations()]
    targets = [LayerStatistics(mean=torch.zeros(c), std=torch.ones(c)) for c in (3, 6)]
    pairs = zip(found, targets, strict=True)
    rows = torch.stack([deviation(m.sample_mean, m.sample_var, t).mean(-1) for m, t in pairs])
    weights = torch.tensor([[3.0, 1.0, 3.0, 1.0, 3.0], [1.0, 3.0, 1.0, 3.0, 1.0]])
    wanted = (rows * weights).sum() / weights.sum()
    torch.testing.assert_close(sample_term(found, targets, enhancement=3.0), wanted)
    torch.testing.assert_close(sample_term(found, targets, enhancement=1.0), rows.mean())


def test_more_layers_than_samples_are_no_fault():
    found = [measure(randn(2, 3, 4, 4, seed=index)) for index in range(5)]
    targets = [LayerStatistics(mean=torch.zeros(3), std=torch.ones(3))] * 5
    assert math.isfinite(float(sample_term(found, targets, enhancement=2.0)))


def test_layers_without_positions_take_no_part_in_the_sample_term():
    found = [measure(randn(5, 3, 4, 4)), measure(randn(5, 7))]
    targets = [LayerStatistics(mean=torch.zeros(c), std=torch.ones(c)) for c in (3, 7)]
    torch.testing.assert_close(
        sample_term(found, targets, enhancement=2.0),
        sample_term(found[:1], targets[:1], enhancement=2.0),
    )


def test_a_network_without_positions_has_no_sample_term():
    target = LayerStatistics(mean=torch.zeros(7), std=torch.ones(7))
    with pytest.raises(CalibError, match="spatial positions") as caught:
        sample_term([measure(randn(5, 7))], [target], enhancement=2.0)
    assert "--set synthesis.sample_statistics=0" in caught.value.mend


def test_the_slack_is_the_quantile_over_channels_of_what_noise_shows():
    noise = measure(randn(64, 11, 4, 4) * torch.arange(1, 12).view(-1, 1, 1))
    target = LayerStatistics(mean=torch.zeros(11), std=torch.ones(11))
    (relaxed,) = with_slack([target], [noise], quantile=0.9)
    # Eleven channels with a standard deviation of about 1 to 11: the quantile 0.9 is the tenth gap, about 9.
    assert relaxed.std_slack == pytest.approx(9, rel=0.1)
    gaps = noise.mean.abs().sort().values
    assert relaxed.mean_slack == pytest.approx(float(gaps[9]), rel=1e-5)
    assert relaxed.mean is target.mean


def test_noise_with_the_full_slack_costs_nothing_and_without_slack_something():
    noise = [measure(a) for a in activations()]
    targets = [LayerStatistics(mean=torch.zeros(c), std=torch.ones(c)) for c in (3, 6)]
    assert float(batch_term(noise, with_slack(targets, noise, quantile=1.0))) < 1e-10
    assert float(batch_term(noise, targets)) > 0.01


def test_slack_zero_is_the_term_without_slack():
    noise = [measure(a) for a in activations()]
    targets = [matching(item) for item in noise]
    relaxed = with_slack(targets, noise, quantile=0.9)
    assert all(item.mean_slack + item.std_slack < 1e-5 for item in relaxed)
    found = [measure(a) for a in activations(seed=9)]
    torch.testing.assert_close(batch_term(found, relaxed), batch_term(found, targets))


def test_the_pooled_deviation_weighs_means_by_both_spreads_and_pulls_on_no_spread():
    target = LayerStatistics(mean=torch.tensor([1.0, 0.0]), std=torch.tensor([3.0, 1.0]))
    mean, var = torch.tensor([6.0, 0.0]), torch.tensor([16.0, 49.0])
    assert pooled_deviation(mean, var, target).tolist() == pytest.approx([5 / 5, 0], rel=1e-5)
    moments = [Moments(mean=mean, var=var, sample_mean=None, sample_var=None)]
    found = float(batch_term(moments, [target], distance=pooled_deviation))
    assert found == pytest.approx(0.5, rel=1e-5)


def test_the_gradient_is_finite_where_a_channel_is_constant():
    a = randn(5, 3, 4, 4)
    a[:, 1] = 2.0
    a.requires_grad_(True)
    target = LayerStatistics(mean=torch.zeros(3), std=torch.ones(3))
    moments = [measure(a)]
    loss = batch_term(moments, [target]) + sample_term(moments, [target], enhancement=2.0)
    torch.autograd.backward(loss)
    assert torch.isfinite(a.grad).all()
    assert a.grad.abs().max() > 0


def test_moments_of_bfloat16_are_summed_in_float32():
    a = randn(64, 4, 16, 16).float().add(3).bfloat16()
    found, wanted = measure(a), measure(a.float())
    assert found.var.dtype == torch.float32
    torch.testing.assert_close(found.mean, wanted.mean)
    torch.testing.assert_close(found.var, wanted.var, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("distance", sorted(DISTANCES))
def test_a_layer_whose_variance_is_its_eps_is_matched_by_its_own_batch(distance):
    """An eps of 1e-3, as TensorFlow has it, is no small part of a narrow channel's variance."""
    a = randn(8, 3, 6, 6) * 0.03
    found = measure(a)
    entry = BNEntry(
        tensor="a",
        node="n",
        mean=tuple(found.mean.tolist()),
        var=tuple(found.var.tolist()),
        eps=1e-3,
        source="node",
    )
    targets = targets_from_table(BNTable(entries=(entry,)))
    assert float(batch_term([found], targets, distance=DISTANCES[distance])) < 1e-10


def test_each_row_that_a_layer_sees_is_a_sample_of_that_layer():
    """Frames of a video lie on the batch's axis of some layers, and not of others."""
    frames, clips = measure(randn(6, 4, 5, 5) * 2), measure(randn(2, 3, 7, seed=1))
    targets = [LayerStatistics(mean=torch.zeros(c), std=torch.ones(c)) for c in (4, 3)]
    both = sample_term([frames, clips], targets, enhancement=1.0)
    apart = [
        sample_term([found], [target], enhancement=1.0)
        for found, target in zip((frames, clips), targets, strict=True)
    ]
    torch.testing.assert_close(both, torch.stack(apart).mean())


def test_layers_count_alike_whatever_rows_they_see():
    """Two layers of six rows and one of two: each group weighs its samples by itself."""
    wide = [measure(randn(6, 4, 5, 5, seed=seed) * 2) for seed in (0, 1)]
    other = measure(randn(2, 3, 7, seed=2))
    targets = [LayerStatistics(mean=torch.zeros(c), std=torch.ones(c)) for c in (4, 4, 3)]
    found = sample_term([*wide, other], targets, enhancement=3.0)
    first, second, third = (
        sample_term([m], [t], enhancement=1.0) for m, t in zip([*wide, other], targets, strict=True)
    )
    pair = sample_term(wide, targets[:2], enhancement=3.0)
    assert not torch.isclose(pair, (first + second) / 2)
    torch.testing.assert_close(found, (2 * pair + third) / 3)


def test_moments_of_batches_pool_to_those_of_all():
    a = randn(12, 3, 4, 4) * 2 + 1
    pooled, whole = pool_batches([measure(part) for part in a.split(4)]), measure(a)
    torch.testing.assert_close(pooled.mean, whole.mean)
    torch.testing.assert_close(pooled.var, whole.var)
