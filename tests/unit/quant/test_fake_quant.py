"""Forward against numpy, backward against the closed form of LSQ."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from edgeq.core.numerics import dequantize, largest_scale, quantize
from edgeq.core.plan import Grid
from edgeq.quant.fake_quant import FakeQuantizer

GRIDS = [Grid(bits=8), Grid(bits=4, signed=False), Grid(bits=3, narrow=True)]


def points(grid: Grid, *, count: int = 1000) -> torch.Tensor:
    """Return random u = x / s over and beyond the grid, and both of its ends."""
    generator = torch.Generator().manual_seed(0)
    span = grid.high - grid.low
    random = torch.rand(count, generator=generator) * 2 * span + grid.low - span / 2
    return torch.cat([random, torch.tensor([float(grid.low), float(grid.high)])])


def run(quantizer: FakeQuantizer, x: torch.Tensor, grad: torch.Tensor) -> torch.Tensor:
    x.requires_grad_(True)
    torch.autograd.backward((quantizer(x) * grad).sum())
    return x.grad


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_a_second_pass_changes_nothing_and_codes_stay_on_the_grid(grid):
    quantizer = FakeQuantizer(grid, torch.tensor(0.037))
    x = points(grid) * 0.037
    once = quantizer(x).detach()
    assert torch.equal(quantizer(once), once)
    codes = quantizer.codes(x)
    assert (codes.min(), codes.max()) == (grid.low, grid.high)
    assert torch.equal(codes, codes.round())
    assert not codes.requires_grad


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_values_are_numpys(grid):
    quantizer = FakeQuantizer(grid, torch.tensor(0.037))
    x = (points(grid) * 0.037).numpy()
    scale = quantizer.scale().detach().numpy()
    wanted = dequantize(quantize(x, scale, low=grid.low, high=grid.high), scale)
    np.testing.assert_array_equal(quantizer(torch.from_numpy(x)).detach().numpy(), wanted)


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_the_gradient_by_the_input_is_one_inside_and_zero_outside(grid):
    quantizer = FakeQuantizer(grid, torch.tensor(0.5))
    u = points(grid)
    found = run(quantizer, u * 0.5, torch.ones_like(u))
    inside = (u > grid.low - 0.5) & (u < grid.high + 0.5)
    assert 0 < int(inside.sum()) < len(u)
    assert torch.equal(found, inside.float())


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_the_gradient_by_the_scale_is_that_of_lsq(grid):
    scale = 0.25  # a power of two, so that x / s gives u back exactly
    quantizer = FakeQuantizer(grid, torch.tensor(scale))
    u = points(grid)
    grad = torch.randn(len(u), generator=torch.Generator().manual_seed(1))
    run(quantizer, u * scale, grad)
    by_scale = torch.where(
        u < grid.low - 0.5,
        torch.tensor(float(grid.low)),
        torch.where(u > grid.high + 0.5, torch.tensor(float(grid.high)), u.round() - u),
    )
    # The parameter is log s: d / d log s = s d / ds.
    wanted = scale * float((by_scale * grad).double().sum())
    assert float(quantizer.log_scale.grad) == pytest.approx(wanted, rel=1e-4)


def test_at_both_ends_of_the_grid_the_scale_has_no_gradient_and_the_input_has():
    grid = Grid(bits=4)
    quantizer = FakeQuantizer(grid, torch.tensor(0.25))
    found = run(quantizer, torch.tensor([-8.0, 7.0]) * 0.25, torch.ones(2))
    assert found.tolist() == [1, 1]
    assert float(quantizer.log_scale.grad) == 0


@pytest.mark.parametrize("axis", [None, 0])
def test_a_limit_that_is_out_of_reach_changes_no_gradient(axis):
    grid = Grid(bits=4, axis=axis)
    scale = torch.tensor(0.25) if axis is None else torch.tensor([0.25, 0.125])
    x, grad = torch.randn(2, 2, 50, generator=torch.Generator().manual_seed(0))
    found = []
    for limit in (None, 100.0):
        quantizer = FakeQuantizer(grid, scale, ndim=2, limit=limit)
        found.append((run(quantizer, x.clone(), grad), quantizer.log_scale.grad))
    torch.testing.assert_close(*found)


@pytest.mark.parametrize("limit", [1.0, 6.0])
@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("signed", [True, False])
def test_a_scale_at_its_limit_has_a_gradient(limit, bits, signed):
    """Somewhere among them the exponential of the limit's logarithm rounds up."""
    quantizer = FakeQuantizer(Grid(bits=bits, signed=signed), torch.tensor(limit), limit=limit)
    x = torch.linspace(0, limit, 101) + 0.001
    run(quantizer, x, torch.linspace(1, 2, 101))
    assert float(quantizer.log_scale.grad) != 0
    assert float(quantizer.scale().detach()) <= largest_scale(limit, high=quantizer.grid.high)


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("channels", [1, 3])
def test_each_channels_scale_gets_its_own_gradient(axis, channels):
    grid = Grid(bits=4, narrow=True, axis=axis)
    shape = (channels, 2, 3, 3) if axis == 0 else (2, channels, 3, 3)
    generator = torch.Generator().manual_seed(0)
    x, grad = torch.randn(2, *shape, generator=generator)
    scales = torch.linspace(0.1, 0.4, channels)
    whole = FakeQuantizer(grid, scales, ndim=4)
    by_input = run(whole, x.clone(), grad)
    for channel in range(channels):
        alone = FakeQuantizer(Grid(bits=4, narrow=True), scales[channel])
        part = run(alone, x.select(axis, channel).clone(), grad.select(axis, channel))
        torch.testing.assert_close(by_input.select(axis, channel), part)
        torch.testing.assert_close(whole.log_scale.grad[channel], alone.log_scale.grad)


def test_a_quantizer_that_is_switched_off_passes_its_input_through():
    quantizer = FakeQuantizer(Grid(bits=2), torch.tensor(1.0))
    quantizer.enabled = False
    x = torch.tensor([0.3])
    assert quantizer(x) is x


def test_a_scale_stays_positive_however_far_it_is_moved():
    quantizer = FakeQuantizer(Grid(bits=8), torch.tensor(0.1))
    with torch.no_grad():
        quantizer.log_scale -= 20
    assert float(quantizer.scale().detach()) > 0
