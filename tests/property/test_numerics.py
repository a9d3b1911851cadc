"""What must hold for every grid and every value. Fixed examples: `derandomize` draws the same ones each time."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from edgeq.core.numerics import (
    SMALLEST_SCALE,
    choose_scale,
    dequantize,
    pack_int4,
    quantize,
    unpack_int4,
)
from edgeq.core.plan import Grid
from edgeq.quant.fake_quant import FakeQuantizer
from edgeq.quant.ranges import mse_scale

few = settings(deadline=None, derandomize=True, max_examples=60, database=None)

# u = x / scale is at most 128 and rounded to float32 once, the product once more.
SLACK = 256 * float(np.finfo(np.float32).eps)


@st.composite
def grids(draw: st.DrawFn) -> Grid:
    bits = draw(st.integers(2, 8))
    signed = bits == 8 or draw(st.booleans())
    return Grid(bits=bits, signed=signed, narrow=signed and draw(st.booleans()))


scales = st.floats(2.0**-20, 2.0**10, width=32).map(np.float32)
steps = arrays.arrays(np.float32, st.integers(1, 40), elements=st.floats(-300, 300, width=32))
numbers = arrays.arrays(np.float32, st.integers(1, 40), elements=st.floats(-1e6, 1e6, width=32))


def fake_quantize(x: NDArray[np.float32], scale: np.float32, grid: Grid) -> NDArray[np.float32]:
    return dequantize(quantize(x, scale, low=grid.low, high=grid.high), scale)


@few
@given(grids(), scales, steps)
def test_codes_are_on_the_grid_and_values_come_back_equal(grid, scale, steps):
    codes = quantize(steps * scale, scale, low=grid.low, high=grid.high)
    assert codes.min() >= grid.low
    assert codes.max() <= grid.high
    values = dequantize(codes, scale)
    again = quantize(values, scale, low=grid.low, high=grid.high)
    np.testing.assert_array_equal(again, codes)
    np.testing.assert_array_equal(fake_quantize(values, scale, grid), values)


@few
@given(grids(), scales, steps)
def test_the_error_is_at_most_half_a_step_inside_and_the_way_to_the_end_outside(grid, scale, steps):
    x = steps * scale
    exact = x.astype(np.float64)
    step = float(scale)
    nearest_legal = np.clip(exact, grid.low * step, grid.high * step)
    error = np.abs(fake_quantize(x, scale, grid) - nearest_legal)
    assert error.max() <= step * (0.5 + SLACK)


@few
@given(grids(), scales, steps)
def test_quantizing_keeps_the_order(grid, scale, steps):
    codes = quantize(np.sort(steps) * scale, scale, low=grid.low, high=grid.high)
    assert (np.diff(codes.astype(np.int32)) >= 0).all()


@few
@given(grids(), scales, steps)
def test_the_students_quantizer_gives_numpys_values(grid, scale, steps):
    quantizer = FakeQuantizer(grid, torch.tensor(scale))
    scale = quantizer.scale().detach().numpy()
    x = steps * scale
    found = quantizer(torch.from_numpy(x)).detach().numpy()
    np.testing.assert_array_equal(found, fake_quantize(x, scale, grid))


@few
@given(grids(), st.floats(0, 2.0**127, width=32))
def test_the_largest_value_gets_the_highest_code(grid, amax):
    scale = choose_scale(amax, high=grid.high)
    assert scale.dtype == np.float32
    assert scale >= SMALLEST_SCALE
    if amax == 0:
        assert scale == 1
    elif scale > SMALLEST_SCALE:
        assert quantize(np.float32(amax), scale, low=grid.low, high=grid.high) == grid.high


@few
@given(arrays.arrays(np.int8, arrays.array_shapes(max_dims=3), elements=st.integers(-8, 7)))
def test_packed_four_bit_codes_come_back(codes):
    packed = pack_int4(codes)
    assert packed.size == (codes.size + 1) // 2
    np.testing.assert_array_equal(unpack_int4(packed, codes.size), codes.ravel())


def squared_error(x: NDArray[np.float32], scale: np.float32, grid: Grid) -> float:
    exact = x.astype(np.float64)
    codes = np.clip(np.rint(exact / float(scale)), grid.low, grid.high)
    return float(((codes * float(scale) - exact) ** 2).sum())


@few
@given(grids(), numbers)
def test_the_searched_scale_is_never_worse_than_the_largest_values(grid, x):
    found = mse_scale(torch.from_numpy(x), grid).numpy()
    plain = choose_scale(np.abs(x).max(), high=grid.high)
    # The search sums in float32: n values, each with a relative error of some eps.
    room = len(x) * 8 * float(np.finfo(np.float32).eps)
    worst = squared_error(x, plain, grid) * (1 + room)
    assert squared_error(x, found, grid) <= worst + room * float(plain) ** 2


@few
@given(
    arrays.arrays(np.float32, (3, 8), elements=st.floats(-1e3, 1e3, width=32)), st.integers(0, 1)
)
def test_a_search_per_channel_is_one_search_a_channel(x, axis):
    grid = Grid(bits=4, narrow=True, axis=axis)
    whole = mse_scale(torch.from_numpy(x), grid).numpy()
    alone = Grid(bits=4, narrow=True)
    rows = [mse_scale(torch.from_numpy(row.copy()), alone) for row in np.moveaxis(x, axis, 0)]
    np.testing.assert_allclose(whole, [float(row) for row in rows], rtol=1e-6)
