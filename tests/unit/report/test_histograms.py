from __future__ import annotations

import re

import numpy as np
import pytest

from edgeq.core.plan import Grid
from edgeq.report.histograms import HEIGHT, WIDTH, CodeCounter

ONE = np.float32(1)
INT4 = Grid(bits=4)


def bars(area: str) -> list[float]:
    """Return the height of each bar of a path."""
    return [round(HEIGHT - float(y), 1) for y in re.findall(r"V([\d.]+)H", area)]


def test_each_code_of_a_narrow_grid_has_a_bar_and_the_grid_has_a_margin():
    counter = CodeCounter(INT4, ONE)
    counter.add_codes(np.arange(-8, 8))
    picture = counter.draw()
    assert bars(picture.area) == [0, 0, *[HEIGHT] * 16, 0, 0]
    assert (picture.low_x, picture.high_x) == (WIDTH * 2 / 20, WIDTH * 18 / 20)
    assert (picture.low, picture.high, picture.used, picture.clipped_pct) == (-8, 7, 16, 0)


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("narrow", [False, True])
def test_no_grid_has_more_bars_than_a_screen_shows(bits, narrow):
    counter = CodeCounter(Grid(bits=bits, narrow=narrow), ONE)
    counter.add_codes(np.zeros(1, np.int8))
    picture = counter.draw()
    assert 4 < len(bars(picture.area)) <= 81
    assert 0 < picture.low_x < picture.high_x < WIDTH
    assert picture.area.endswith(f"H{WIDTH:.1f}V{HEIGHT}Z")


def test_values_outside_the_grid_are_clipped_ones_whatever_their_size():
    counter = CodeCounter(INT4, np.float32(0.5))
    counter.add(np.array([0.0, 3.5, 3.7, 4.0, 1e30, -4.0, -4.2, -1e30], np.float32))
    picture = counter.draw()
    assert picture.used == 3
    assert picture.clipped_pct == pytest.approx(100 * 3 / 8)


def test_each_channel_has_its_own_step():
    counter = CodeCounter(Grid(bits=4, narrow=True, axis=1), np.array([1, 10], np.float32))
    counter.add(np.array([[3, 30], [3, 30]], np.float32))
    assert counter.draw().used == 1


def test_batches_add_up():
    x = np.random.default_rng(0).normal(size=(8, 5)).astype(np.float32)
    whole, parts = CodeCounter(INT4, ONE), CodeCounter(INT4, ONE)
    whole.add(x)
    for part in np.split(x, 4):
        parts.add(part)
    assert whole.draw() == parts.draw()


def test_nothing_counted_is_a_flat_picture():
    picture = CodeCounter(INT4, ONE).draw()
    assert set(bars(picture.area)) == {0}
    assert (picture.used, picture.clipped_pct) == (0, 0)
