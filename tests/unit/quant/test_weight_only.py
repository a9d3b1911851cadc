from __future__ import annotations

import numpy as np
import pytest

from edgeq.core.errors import NumericsError
from edgeq.core.numerics import dequantize, quantize
from edgeq.core.quantized import to_rows
from edgeq.quant.weight_only import (
    HIGH,
    LOW,
    Method,
    find_outlying_rows,
    pack_matrix,
    search_scale,
)

METHODS = list(Method)


@pytest.fixture
def weight() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(256, 24)).astype(np.float32)


@pytest.fixture
def spiked(weight) -> np.ndarray:
    weight[7] *= 10
    weight[200] *= 10
    return weight


def error(weight: np.ndarray, method: Method, *, may_split: bool = True) -> float:
    packed = pack_matrix(weight, block=64, method=method, may_split=may_split)
    return float(np.sum((packed.weight() - weight) ** 2))


@pytest.mark.parametrize("method", METHODS)
def test_codes_are_those_of_core_numerics_and_scales_are_fp16_numbers(weight, method):
    packed = pack_matrix(weight, block=64, method=method)
    assert packed.block == 64
    assert packed.scale.shape == (4, 24)
    assert np.array_equal(packed.scale, packed.scale.astype(np.float16).astype(np.float32))
    expected = quantize(to_rows(weight, 64), packed.scale.reshape(-1), low=LOW, high=HIGH)
    assert np.array_equal(to_rows(packed.codes, 64), expected)
    assert packed.codes.min() >= -7


def test_a_scale_that_fp16_cannot_hold_as_a_normal_number_is_kept_as_it_is(weight):
    packed = pack_matrix(weight * np.float32(1e-6), block=64, method=Method.NEAREST)
    assert np.all(packed.scale > 0)
    assert packed.scale.max() < 2.0**-14
    np.testing.assert_allclose(packed.weight(), weight * 1e-6, atol=0.6 * float(packed.scale.max()))


def test_every_method_is_at_least_as_good_as_the_one_before(spiked):
    errors = [error(spiked, method) for method in METHODS]
    assert errors[0] > errors[1] > errors[2]


def test_the_search_never_raises_the_error_and_ends_where_the_gradient_is_zero(weight):
    rows = to_rows(weight, 64)
    start = np.abs(rows).max(axis=1) / HIGH
    found = search_scale(rows, start)
    errors = []
    for scale in (start, found):
        codes = quantize(rows, scale, low=LOW, high=HIGH)
        errors.append(np.sum((dequantize(codes, scale) - rows) ** 2, axis=1))
    assert np.all(errors[1] <= errors[0] * (1 + 1e-6))
    codes = quantize(rows, found, low=LOW, high=HIGH).astype(np.float64)
    gradient = 2 * np.sum((found[:, None] * codes - rows) * codes, axis=1)
    assert np.abs(gradient).max() < 1e-3 * np.abs(2 * np.sum(rows * codes, axis=1)).min()


def test_outlying_inputs_are_kept_in_float(spiked):
    assert find_outlying_rows(spiked).tolist() == [7, 200]
    packed = pack_matrix(spiked, block=64, method=Method.EASYQUANT)
    assert packed.rows.tolist() == [7, 200]
    assert np.array_equal(packed.weight()[[7, 200]], spiked[[7, 200]])
    assert not packed.codes[[7, 200]].any()


def test_inputs_without_outliers_all_stay_on_the_grid(weight):
    assert not len(pack_matrix(weight, block=64, method=Method.EASYQUANT).rows)
    flat = np.sign(weight)
    assert not len(find_outlying_rows(flat))


def test_no_input_is_kept_in_float_where_the_node_cannot_be_split(spiked):
    assert not len(pack_matrix(spiked, block=64, method=Method.EASYQUANT, may_split=False).rows)
    assert error(spiked, Method.EASYQUANT, may_split=False) <= error(spiked, Method.MSE)


def test_dead_blocks_get_a_scale_and_stay_zero():
    packed = pack_matrix(np.zeros((64, 4), np.float32), block=64, method=Method.MSE)
    assert np.all(packed.scale > 0)
    assert not packed.weight().any()


def test_a_block_that_does_not_divide_the_inputs_is_refused(weight):
    with pytest.raises(NumericsError, match="blocks of 96 do not divide 256"):
        pack_matrix(weight, block=96, method=Method.MSE)


def test_a_weight_that_is_not_finite_is_refused(weight):
    weight[3, 3] = np.nan
    with pytest.raises(NumericsError, match="NaN or infinity"):
        pack_matrix(weight, block=64, method=Method.NEAREST)
