"""The figures of the docstrings, and every error. Equality with other executors is tests/contract/test_numerics.py."""

from __future__ import annotations

import doctest

import numpy as np
import pytest

from edgeq.core import numerics
from edgeq.core.errors import NumericsError
from edgeq.core.numerics import (
    SMALLEST_SCALE,
    along_axis,
    choose_scale,
    code_range,
    dequantize,
    pack_int4,
    quantize,
    sqnr_db,
    unpack_int4,
)


def test_the_examples_in_the_docstrings_hold():
    found = doctest.testmod(numerics)
    assert found.attempted >= 3
    assert found.failed == 0


@pytest.mark.parametrize(
    ("bits", "signed"), [(0, True), (1, True), (9, True), (9, False), (1, False)]
)
def test_a_width_outside_the_container_is_refused(bits, signed):
    with pytest.raises(
        NumericsError, match=f"no grid of {bits} bits, {'' if signed else 'un'}signed"
    ):
        code_range(bits, signed=signed)


def test_halves_are_rounded_to_even_and_the_ends_saturate():
    x = np.float32([-99, -2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 99])
    codes = quantize(x, np.float32(1), low=-8, high=7)
    assert codes.tolist() == [-8, -2, -2, 0, 0, 2, 2, 7]
    assert codes.dtype == np.int8


def test_the_value_is_divided_by_the_scale_not_multiplied_by_its_reciprocal():
    scale = np.float32(0.3)
    x = np.arange(0.5, 127, dtype=np.float32) * scale
    divided = np.rint(x / scale)
    assert (divided != np.rint(x * (np.float32(1) / scale))).any()
    np.testing.assert_array_equal(quantize(x, scale, low=-128, high=127), divided)


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_a_scale_per_channel_belongs_to_its_axis(axis):
    x = np.ones((2, 3, 4), np.float32)
    scale = np.arange(1, x.shape[axis] + 1, dtype=np.float32) / 8
    codes = quantize(x, scale, low=-128, high=127, axis=axis)
    moved = np.moveaxis(codes, axis, 0)
    for channel, step in zip(moved, scale, strict=True):
        assert (channel == np.rint(1 / step)).all()
    values = dequantize(codes, scale, axis=axis)
    assert values.dtype == np.float32
    np.testing.assert_array_equal(values, codes * along_axis(scale, 3, axis))


def test_the_largest_value_gets_the_highest_code_and_a_dead_channel_the_scale_one():
    scale = choose_scale(np.float32([12.7, 0.0]), high=127)
    np.testing.assert_allclose(scale, [0.1, 1.0], rtol=1e-6)
    assert scale.dtype == np.float32


def test_no_scale_is_below_the_smallest_normal_number():
    assert float(choose_scale(np.float32(1e-44), high=127)) == SMALLEST_SCALE


@pytest.mark.parametrize("amax", [float("nan"), float("inf"), -1.0, [1.0, float("nan")]])
def test_an_impossible_range_is_refused(amax):
    with pytest.raises(NumericsError, match="has no scale"):
        choose_scale(np.float32(amax), high=127)


def test_four_bit_codes_are_packed_low_nibble_first_as_in_onnx():
    onnx = pytest.importorskip("onnx")
    codes = np.array([[1, -1, 7], [-8, 0, 3], [2, -2, 5]])
    tensor = onnx.helper.make_tensor("t", onnx.TensorProto.INT4, codes.shape, codes.ravel())
    assert pack_int4(codes).tobytes() == _int4_bytes(tensor)
    assert unpack_int4(pack_int4(codes), 9).tolist() == codes.ravel().tolist()


def _int4_bytes(tensor) -> bytes:
    return tensor.raw_data or bytes(value & 0xFF for value in tensor.int32_data)


def test_nothing_is_packed_into_nothing():
    packed = pack_int4(np.array([], np.int8))
    assert packed.size == 0
    assert unpack_int4(packed, 0).size == 0


@pytest.mark.parametrize("code", [-9, 8])
def test_a_code_of_more_than_four_bits_is_not_packed(code):
    with pytest.raises(NumericsError, match="do not fit 4 bits"):
        pack_int4(np.array([0, code]))


def test_signal_to_noise_is_in_decibels():
    signal = np.float32([3, 4])
    assert sqnr_db(signal, signal) == float("inf")
    assert sqnr_db(signal, signal + np.float32([0.3, 0.4])) == pytest.approx(20.0, abs=1e-4)
    assert sqnr_db(np.zeros(2), np.ones(2)) == float("-inf")
