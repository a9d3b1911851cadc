"""Numbers of weights of 4 bits in blocks, without data: nearest, least squared error, or EasyQuant-like.

A matrix is [K, N]: K inputs, N outputs. Entry: `pack_matrix`. Every method takes the symmetric grid -7..7.
Source: tensorrt.md 2.8; Tang et al., EasyQuant (EMNLP 2023), equations 1 to 4.
"""

from __future__ import annotations

import enum

import numpy as np
import torch
from numpy.typing import NDArray

from edgeq.core.errors import NumericsError
from edgeq.core.numerics import choose_scale, code_range, dequantize, quantize
from edgeq.core.plan import Grid
from edgeq.core.quantized import PackedMatrix, from_rows, to_rows
from edgeq.quant.ranges import mse_scale

Matrix = NDArray[np.float32]

LOW, HIGH = code_range(4, narrow=True)

# EasyQuant: outliers lie this many standard deviations from the mean of the matrix, and are at most this share of it.
OUTLIER_SIGMAS = 3.0
OUTLIER_SHARE = 0.01
# Rows are kept in float only if the error falls by more than this times their share of the rows: a row in float has the
# size of eight in 4 bits, and any row would take its own share of the error with it.
WORTH = 8.0
# Steps of the scale search; it stops before where nothing changes any more.
STEPS = 100

# The smallest normal FP16 number; below it rounding a scale to FP16 would cost bits.
_HALF_NORMAL = 2.0**-14


class Method(enum.Enum):
    """How the scales are chosen."""

    NEAREST = "nearest"  # the largest weight of a block gets the highest code
    MSE = "mse"  # the scale of least squared error, by search
    EASYQUANT = "easyquant"  # outlying inputs in float, then a scale search on the rest


def pack_matrix(
    weight: Matrix, *, block: int, method: Method, may_split: bool = True
) -> PackedMatrix:
    """Return the weight as 4-bit codes.

    Scales are rounded to FP16 before the codes are taken, where FP16 holds them as normal numbers: so a graph whose
    remainder is FP16 computes with the same weights.

    Args:
        weight: [K, N], float32.
        block: how many inputs have one scale; divides K.
        method: see `Method`.
        may_split: some inputs may be kept in float, if `method` wants that.

    Raises:
        NumericsError: if a weight is NaN or infinite, or `block` does not divide K.
    """
    if not np.all(np.isfinite(weight)):
        raise NumericsError(
            "NaN or infinity in a weight matrix",
            why="it has no range",
            mend="look for overflow in the model; a float16 file may need to be exported in float32",
        )
    plain = _pack(weight, np.zeros(0, np.int64), block=block, method=method)
    rows = find_outlying_rows(weight)
    if method is not Method.EASYQUANT or not may_split or not len(rows):
        return plain
    isolated = _pack(weight, rows, block=block, method=method)
    before, after = (float(np.sum((item.weight() - weight) ** 2)) for item in (plain, isolated))
    is_worth = before - after > WORTH * len(rows) / len(weight) * before
    return isolated if is_worth else plain


def find_outlying_rows(weight: Matrix) -> NDArray[np.int64]:
    """Return the inputs that hold the most outliers by energy, at most `OUTLIER_SHARE` of K (one at least), rising.

    EasyQuant keeps every entry with |w - mean| >= n * std in float. Deviation: whole inputs are kept, because in ONNX
    single entries need a scatter between DequantizeLinear and the product, which TensorRT folds into a float weight,
    whereas whole inputs are a Gather and a small product beside it. Outliers elsewhere stay on the grid and take part
    in the search of its scale.
    """
    centred = np.abs(weight - weight.mean(dtype=np.float64))
    outliers = np.where(centred >= OUTLIER_SIGMAS * weight.std(dtype=np.float64), weight, 0.0)
    energy = np.sum(np.square(outliers, dtype=np.float64), axis=1)
    limit = max(1, int(OUTLIER_SHARE * len(weight)))
    found = np.argsort(-energy, kind="stable")[:limit]
    return np.sort(found[energy[found] > 0]).astype(np.int64)


def search_scale(rows: Matrix, scale: Matrix) -> Matrix:
    """Return scales of lower squared error than `scale`, one a row.

    Alternates the codes q for a scale and the best scale for the codes, sum(w q) / sum(q q): neither step can raise the
    error, and it ends where EasyQuant's gradient 2 sum((Q(w) - w) q) is zero. Deviation: the paper takes Adam from the
    largest value, with a rate that depends on the model; here is no rate, and the start is the result of a grid search.

    Args:
        rows: [R, block], float32.
        scale: [R], float32, > 0.
    """
    for _ in range(STEPS):
        codes = quantize(rows, scale, low=LOW, high=HIGH).astype(np.float64)
        power = np.sum(codes**2, axis=1)
        product = np.sum(codes * rows, axis=1)
        better = np.where(product > 0, product / np.maximum(power, 1), scale).astype(np.float32)
        if np.array_equal(better, scale):
            break
        scale = better
    return scale


def _pack(weight: Matrix, kept: NDArray[np.int64], *, block: int, method: Method) -> PackedMatrix:
    """Return the codes of all inputs but `kept`, which stay in float."""
    rest = weight.copy()
    rest[kept] = 0
    rows = to_rows(rest, block)
    scale = _round_to_half(_choose(rows, method))
    if method is not Method.NEAREST:
        scale = _keep_better(rows, scale, _round_to_half(_nearest(rows)))
    codes = quantize(rows, scale, low=LOW, high=HIGH).astype(np.int8)
    columns = weight.shape[1]
    return PackedMatrix(
        codes=from_rows(codes, columns),
        scale=scale.reshape(-1, columns),
        rows=kept,
        floats=weight[kept],
    )


def _choose(rows: Matrix, method: Method) -> Matrix:
    if method is Method.NEAREST:
        return _nearest(rows)
    grid = Grid(bits=4, narrow=True, axis=0)
    scale = mse_scale(torch.from_numpy(rows), grid).numpy()
    return search_scale(rows, scale) if method is Method.EASYQUANT else scale


def _nearest(rows: Matrix) -> Matrix:
    return choose_scale(np.abs(rows).max(axis=1), high=HIGH)


def _keep_better(rows: Matrix, scale: Matrix, plain: Matrix) -> Matrix:
    """Return, row by row, whichever scale has the lower error; rounding to FP16 can turn a tie."""
    errors = [
        np.sum((dequantize(quantize(rows, item, low=LOW, high=HIGH), item) - rows) ** 2, axis=1)
        for item in (scale, plain)
    ]
    return np.where(errors[0] <= errors[1], scale, plain)


def _round_to_half(scale: Matrix) -> Matrix:
    fits = (scale >= _HALF_NORMAL) & (scale <= np.finfo(np.float16).max)
    with np.errstate(over="ignore"):
        return np.where(fits, scale.astype(np.float16).astype(np.float32), scale)
