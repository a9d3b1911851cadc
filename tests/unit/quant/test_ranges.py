from __future__ import annotations

import numpy as np
import pytest
import torch

from edgeq.core.errors import NumericsError
from edgeq.core.numerics import SMALLEST_SCALE
from edgeq.core.plan import Grid
from edgeq.quant.ranges import ValueSample, mse_scale

INT4 = Grid(bits=4, narrow=True)


def randn(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def error(x: torch.Tensor, scale: float, grid: Grid) -> float:
    exact = x.numpy().astype(np.float64)
    codes = np.clip(np.rint(exact / scale), grid.low, grid.high)
    return float(((codes * scale - exact) ** 2).sum())


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_no_scale_of_a_fine_search_is_much_better(bits):
    grid = Grid(bits=bits, narrow=True)
    x = randn(4000)
    found = float(mse_scale(x, grid))
    fine = np.linspace(0.05, 1.5, 400) * float(x.abs().max()) / grid.high
    best = min(error(x, scale, grid) for scale in fine)
    assert error(x, found, grid) < 1.03 * best


def test_values_on_a_grid_get_the_scale_of_that_grid():
    x = torch.arange(-7, 8) * 0.1
    scale = float(mse_scale(x, INT4))
    assert scale == pytest.approx(0.1, rel=1e-6)
    assert error(x, scale, INT4) < 1e-12


def test_an_outlier_is_clipped_where_that_costs_less():
    x = torch.cat([randn(10_000), torch.tensor([12.0])])
    assert float(mse_scale(x, INT4)) * INT4.high < 6


def test_the_unit_of_the_values_is_the_unit_of_the_scale():
    x = randn(500)
    assert float(mse_scale(x * 64, INT4)) == 64 * float(mse_scale(x, INT4))


@pytest.mark.parametrize("axis", [0, 1])
def test_each_channel_has_its_own_scale(axis):
    x = randn(4, 3, 5, 5) * torch.tensor([1.0, 10.0, 100.0]).view(1, 3, 1, 1)
    found = mse_scale(x, Grid(bits=4, narrow=True, axis=axis))
    wanted = torch.stack([mse_scale(part, INT4) for part in x.unbind(axis)])
    assert found.shape == (x.shape[axis],)
    torch.testing.assert_close(found, wanted)


def test_a_dead_channel_gets_a_scale_above_zero():
    x = randn(2, 10)
    x[1] = 0
    found = mse_scale(x, Grid(bits=4, narrow=True, axis=0))
    assert float(found[1]) == pytest.approx(1 / 7)


@pytest.mark.parametrize("size", [1e-38, 1e-40, 1e-44])
def test_a_channel_that_has_nearly_died_gets_a_scale_that_no_runtime_flushes_to_zero(size):
    x = torch.tensor([[size, size / 2, 0.0], [1.0, 0.5, 0.2]])
    found = mse_scale(x, Grid(bits=8, narrow=True, axis=0))
    assert float(found[0]) >= SMALLEST_SCALE
    assert float(found[1]) == pytest.approx(float(mse_scale(x[1], Grid(bits=8, narrow=True))))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_tensor_that_is_not_finite_has_no_range(value):
    with pytest.raises(NumericsError, match="NaN or infinity"):
        mse_scale(torch.tensor([1.0, value]), INT4)


def test_a_search_leaves_the_values_alone_and_needs_no_gradient():
    x = randn(50).requires_grad_(True)
    before = x.detach().clone()
    assert not mse_scale(x, INT4).requires_grad
    assert torch.equal(x, before)


@pytest.mark.parametrize("shape", [(32, 16, 32, 32), (64, 512, 7, 7), (64, 64, 64)])
def test_a_value_sample_sees_every_place_of_the_last_axis_alike(shape: tuple[int, ...]):
    sample = ValueSample(2**14)
    sample.add(torch.arange(shape[-1]).expand(shape))
    counts = torch.bincount(sample.values()[:-2])
    assert len(counts) == shape[-1]
    assert counts.min() > 0.9 * counts.double().mean()


def test_a_value_sample_keeps_values_of_the_whole_tensor_and_the_extremes():
    sample = ValueSample(10)
    x = torch.zeros(4, 25)
    x[1, 3], x[2, 7] = 5.0, -6.0
    sample.add(x)
    values = sample.values()
    assert (float(values.max()), float(values.min())) == (5, -6)
    assert len(values) == 12
    sample.add(x + 1)
    assert len(sample.values()) == 24


def test_a_small_tensor_is_kept_whole():
    sample = ValueSample(100)
    x = randn(2, 3)
    sample.add(x)
    assert sample.values().tolist() == [*x.flatten().tolist(), float(x.min()), float(x.max())]


def test_a_value_sample_does_not_follow_later_changes_of_the_tensor():
    sample = ValueSample(100)
    x = torch.ones(5)
    sample.add(x)
    x.fill_(9)
    assert float(sample.values().max()) == 1
