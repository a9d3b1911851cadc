from __future__ import annotations

import pytest
import torch

from calib.leaves import dead_leaves


def draw(seed: int = 0, *, spread: float = 0.25, **sizes: int) -> torch.Tensor:
    shape = {"count": 8, "height": 16, "width": 12, "channels": 3} | sizes
    return dead_leaves(**shape, generator=torch.Generator().manual_seed(seed), spread=spread)


@pytest.mark.parametrize("sizes", [{}, {"channels": 1}, {"height": 5, "width": 5}], ids=str)
def test_pictures_have_the_size_asked_for_and_raw_values(sizes):
    shape = {"count": 8, "channels": 3, "height": 16, "width": 12} | sizes
    x = draw(**sizes)
    assert x.shape == tuple(shape.values())
    assert x.dtype == torch.float32
    assert torch.isfinite(x).all()
    assert x.min() >= 0
    assert x.max() <= 1


def test_a_seed_gives_the_same_pictures_and_no_two_are_equal():
    first, again, other = draw(0), draw(0), draw(1)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert len({picture.numpy().tobytes() for picture in first}) == len(first)


def test_pictures_vary_slowly_but_have_edges():
    """Neighbours are much alike, as in natural pictures; in white noise they are not at all."""
    x = draw(count=16, height=32, width=32)
    centred = x - x.mean((2, 3), keepdim=True)
    alike = (centred[..., 1:] * centred[..., :-1]).mean() / centred.square().mean()
    assert 0.5 < float(alike) < 0.99
    steps = (x[..., 1:] - x[..., :-1]).abs()
    assert float(steps.quantile(0.99)) > 8 * float(steps.median())


def test_colours_spread_over_the_whole_range():
    x = draw(count=32)
    assert float(x.mean()) == pytest.approx(0.5, abs=0.1)
    assert float(x.std()) > 0.15
    assert float((x[:, 0] - x[:, 1]).abs().mean()) > 0.05


def test_the_spread_is_that_of_colours_and_not_of_lightness():
    vivid, dull, grey = (draw(count=32, spread=spread) for spread in (0.25, 0.1, 0.0))
    colour, less = (float((x[:, 0] - x[:, 1]).square().mean()) for x in (vivid, dull))
    assert less < colour / 3
    assert torch.equal(grey[:, 0], grey[:, 2])
    assert float(grey.std()) > 0.15
