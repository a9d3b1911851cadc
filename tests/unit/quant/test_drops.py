"""Values that are let through in float: how many, which, and what becomes of the gradient."""

from __future__ import annotations

import pytest
import torch

from edgeq.core.plan import Grid
from edgeq.quant.drops import CUTS, DroppedQuantizer, Masks, draw, mix
from edgeq.quant.fake_quant import FakeQuantizer


def masks(seed: int = 0) -> Masks:
    return Masks(torch.Generator().manual_seed(seed))


def test_a_drop_of_none_is_the_quantizer_and_a_drop_of_all_is_float():
    quantizer = FakeQuantizer(Grid(bits=4), torch.tensor(0.1))
    weight = torch.rand(3, 5, generator=torch.Generator().manual_seed(1)) - 0.5
    assert torch.equal(DroppedQuantizer(quantizer, 1.0, masks())(weight), quantizer(weight))
    assert torch.equal(DroppedQuantizer(quantizer, 0.0, masks())(weight), weight)


def test_half_of_the_values_are_mixed_in():
    found = mix(torch.ones(10_000), torch.zeros(10_000), 0.5, masks())
    assert float(found.mean()) == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.75])
def test_values_are_drawn_with_their_share_whatever_their_number(share):
    generator = torch.Generator().manual_seed(0)
    found = draw((7, 11, 101), share, generator)
    assert found.shape == (7, 11, 101)
    assert float(found.mean()) == pytest.approx(share, abs=0.02)
    again = draw((7, 11, 101), share, generator)
    both = float((found * again).mean())
    assert both == pytest.approx(share**2, abs=0.02)


def test_halves_are_drawn_without_a_pattern():
    """Values 6,400 apart are neighbouring bits of one byte."""
    found = draw((8, 64 * 100), 0.5, torch.Generator().manual_seed(0)).flatten()
    for distance in (1, 8, 64, 6400):
        same = (found[distance:] == found[:-distance]).float().mean()
        assert float(same) == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("axis", [None, 0])
def test_a_quantizer_that_drops_values_has_the_gradients_of_the_mixture(axis):
    grid = Grid(bits=4, narrow=True, axis=axis)
    first_scale = torch.tensor(0.3) if axis is None else torch.tensor([0.3, 0.1, 0.2])
    x, grad = (torch.randn(3, 40, generator=torch.Generator().manual_seed(i)) for i in (1, 2))
    gradients = []
    for fused in (True, False):
        quantizer = FakeQuantizer(grid, first_scale, ndim=2)
        leaf = x.clone().requires_grad_(True)
        dropped = DroppedQuantizer(quantizer, 0.5, masks())
        made = dropped(leaf) if fused else mix(quantizer(leaf), leaf, 0.5, masks())
        torch.autograd.backward(made, grad)
        gradients.append((made.detach(), leaf.grad, quantizer.log_scale.grad))
    torch.testing.assert_close(*gradients)


def share_of(mask: torch.Tensor) -> float:
    return float(mask.mean())


@pytest.mark.parametrize("share", [0.25, 0.5])
def test_masks_of_one_row_are_independent_of_each_other(share):
    """Whether a value is let through now says nothing about any other time, or about its neighbours."""
    source = masks()
    drawn = torch.stack([source.draw((4, 50, 50), share).flatten() for _ in range(CUTS + 8)])
    assert share_of(drawn) == pytest.approx(share, abs=0.005)
    # Over time, too, every value has its turn.
    assert float(drawn.mean(0).min()) > 0
    assert float(drawn.mean(0).max()) < 1
    for other in range(1, len(drawn)):
        both = float((drawn[0] * drawn[other]).mean())
        assert both == pytest.approx(share**2, abs=0.03)
    neighbours = float((drawn[:, 1:] * drawn[:, :-1]).mean())
    assert neighbours == pytest.approx(share**2, abs=0.005)


@pytest.mark.parametrize("count", [10, 320, 1000])
def test_small_masks_are_others_each_time_too(count):
    source = masks()
    drawn = torch.stack([source.draw((count,), 0.5) for _ in range(CUTS)])
    assert len(drawn.unique(dim=0)) > 0.9 * CUTS  # two of ten values may well be alike


def test_masks_of_several_sizes_and_shares_come_from_one_source():
    source = masks()
    for shape in [(3, 1000), (7,), (40, 1000), (3, 1000)]:
        for share in (0.5, 0.1):
            mask = source.draw(shape, share)
            assert mask.shape == shape
            assert set(mask.unique().tolist()) <= {0.0, 1.0}
            if mask.numel() > 1000:
                assert share_of(mask) == pytest.approx(share, abs=0.04)


def test_the_same_seed_draws_the_same_masks():
    shapes = [(5, 100), (9, 10), (5, 100)]
    first, second = masks(3), masks(3)
    for shape in shapes:
        assert torch.equal(first.draw(shape, 0.5), second.draw(shape, 0.5))
