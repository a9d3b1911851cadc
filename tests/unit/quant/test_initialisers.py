"""Every range initialiser gives a scale that serves, and the one that its source gives."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from edgeq.core.errors import InputError, NumericsError
from edgeq.core.plan import Grid
from edgeq.core.recipes import RangesSpec
from edgeq.quant.initialisers import INITIALISERS, choose_range, entropy_range
from edgeq.quant.ranges import mse_scale

PER_TENSOR = Grid(bits=4)
PER_CHANNEL = Grid(bits=4, narrow=True, axis=0)
SPEC = RangesSpec()


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("name", INITIALISERS.names())
def test_every_name_is_one_that_a_recipe_may_have(name):
    assert RangesSpec(weights=name, activations=name).weights == name


@pytest.mark.parametrize("name", INITIALISERS.names())
@pytest.mark.parametrize("grid", [PER_TENSOR, PER_CHANNEL], ids=["tensor", "channel"])
def test_a_scale_is_positive_and_covers_no_more_than_the_data_need(name, grid):
    x = normal(3, 4000)
    x[0] = 0  # a dead channel
    scale = choose_range(x, grid, name, SPEC)
    assert scale.shape == (() if grid.axis is None else (3,))
    assert scale.dtype == torch.float32
    assert bool((scale > 0).all())
    assert bool((scale * grid.high <= 1.31 * x.abs().max()).all())


@pytest.mark.parametrize("name", INITIALISERS.names())
def test_a_limit_holds(name):
    scale = choose_range(normal(4000), PER_TENSOR, name, SPEC, limit=0.5)
    assert float(scale) * PER_TENSOR.high == pytest.approx(0.5)


@pytest.mark.parametrize("name", INITIALISERS.names())
def test_nan_is_refused(name):
    with pytest.raises(NumericsError, match="NaN"):
        choose_range(torch.tensor([1.0, float("nan")]), PER_TENSOR, name, SPEC)


def test_an_unknown_name_is_refused():
    with pytest.raises(InputError, match="unknown range initialiser 'minmx'"):
        choose_range(normal(4), PER_TENSOR, "minmx", SPEC)


def test_minmax_covers_the_largest_value_exactly():
    x = torch.tensor([[1.0, -3.5], [0.7, 0.1]])
    expected = torch.tensor([0.5, 0.1])
    torch.testing.assert_close(choose_range(x, PER_CHANNEL, "minmax", SPEC), expected)


def test_batch_max_is_the_mean_of_the_peaks():
    peaks = torch.tensor([6.0, 8.0])
    assert float(choose_range(peaks, PER_TENSOR, "batch_max", SPEC)) == pytest.approx(1.0)


def test_the_percentile_leaves_out_the_outliers():
    x = torch.cat([torch.linspace(0, 1, 9999), torch.tensor([100.0])])
    scale = choose_range(x, PER_TENSOR, "percentile", SPEC)
    assert float(scale) * PER_TENSOR.high == pytest.approx(1.0)
    whole = choose_range(x, PER_TENSOR, "percentile", RangesSpec(percentile=100.0))
    assert float(whole) * PER_TENSOR.high == pytest.approx(100.0)


@pytest.mark.parametrize("grid", [PER_TENSOR, PER_CHANNEL], ids=["tensor", "channel"])
def test_mse_is_the_search_of_the_default_recipe(grid):
    x = normal(3, 500)
    assert torch.equal(choose_range(x, grid, "mse", SPEC), mse_scale(x, grid))


def test_mse_on_a_gaussian_is_better_than_a_fine_grid_of_scales():
    """Within 1 % of the least error among steps 0.1 % apart."""
    x = normal(20_000)

    def error(scale: float) -> float:
        rounded = (x / scale).round().clamp(PER_TENSOR.low, PER_TENSOR.high) * scale
        return float((rounded - x).square().mean())

    best = min(error(0.2 * 1.001**power) for power in range(0, 1000, 4))
    assert error(float(choose_range(x, PER_TENSOR, "mse", SPEC))) <= 1.01 * best


def test_entropy_keeps_what_has_no_outliers_and_clips_what_has():
    values = np.random.default_rng(0).normal(size=50_000).astype(np.float32)
    plain = np.abs(np.clip(values, -2, 2))
    assert entropy_range(plain, levels=128) > 1.9
    outlier = np.append(np.abs(values), np.float32(12.0))
    assert entropy_range(outlier, levels=128) < 5.0


@pytest.mark.parametrize("levels", [8, 128, 256])
def test_entropy_does_not_cut_off_most_of_what_lies_far_from_zero(levels: int):
    gate = np.random.default_rng(0).uniform(0.4, 0.6, 50_000).astype(np.float32)
    assert entropy_range(gate, levels=levels) > 0.55


def test_entropy_of_subnormal_values_covers_them():
    values = np.linspace(0, 1e-42, 1000, dtype=np.float32)
    assert 0 < entropy_range(values, levels=128) <= 1.01e-42


def test_entropy_of_nothing_is_nothing():
    assert entropy_range(np.zeros(10, np.float32), levels=128) == 0.0
