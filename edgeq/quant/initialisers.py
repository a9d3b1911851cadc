"""First ranges: how a scale is read from values. Each rule is registered under the name that recipes use.

A rule takes rows [R, n] (one row a channel, or one in all) and a grid, and returns the scale of each row, [R]. Those
that look for the largest value that the grid is to cover divide it by the highest code. `choose_range` is the entry.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgeq.core.numerics import SMALLEST_SCALE, largest_scale
from edgeq.core.plan import Grid
from edgeq.core.recipes import RangesSpec
from edgeq.core.registry import Registry
from edgeq.quant.ranges import mse_scale, to_rows

RangeRule = Callable[[Tensor, Grid, RangesSpec], Tensor]
INITIALISERS: Registry[RangeRule] = Registry("range initialiser")

# Of the entropy calibration: bins of the histogram, and the fewest that are kept.
BINS = 2048
FEWEST_BINS = 128
# The largest share of the values that may lie beyond the range.
MOST_CLIPPED = 0.1


def choose_range(
    x: Tensor, grid: Grid, name: str, spec: RangesSpec, *, limit: float | None = None
) -> Tensor:
    """Return the scale that the initialiser `name` reads from `x`.

    Args:
        x: any shape; per channel along `grid.axis` where that is given. For "batch_max" its entries are the extremes
            of the batches.
        grid: the codes.
        name: of `INITIALISERS`.
        spec: further figures.
        limit: what the highest code may stand for at most, or None.

    Returns:
        [] or [C], float32, at least `SMALLEST_SCALE`; a channel of zeros gets the scale 1 / high.

    Raises:
        InputError: for an unknown name.
        NumericsError: if `x` has NaN or infinity.
    """
    scale = INITIALISERS.get(name)(to_rows(x, grid), grid, spec)
    if limit is not None:
        scale = scale.clamp_max(float(largest_scale(limit, high=grid.high)))
    return scale[0] if grid.axis is None else scale


def _covering(amax: Tensor, grid: Grid) -> Tensor:
    """Return the scale at which the highest code stands for `amax`; 1 / high for a row of zeros."""
    amax = torch.where(amax > 0, amax, torch.ones_like(amax))
    return (amax / grid.high).clamp_min(SMALLEST_SCALE)


@INITIALISERS.register("minmax")
def _minmax(rows: Tensor, grid: Grid, spec: RangesSpec) -> Tensor:
    """Return max |x|."""
    return _covering(rows.abs().amax(1), grid)


@INITIALISERS.register("batch_max")
def _batch_max(rows: Tensor, grid: Grid, spec: RangesSpec) -> Tensor:
    """Return the mean over batches of max |x|.

    Source: AAC (He et al., Neural Processing Letters 2023). A reconstruction: only the abstract was at hand. For
    weights it is "minmax".
    """
    amax = rows.abs().amax(1) if grid.axis is not None else rows.abs().mean(1)
    return _covering(amax, grid)


@INITIALISERS.register("percentile")
def _percentile(rows: Tensor, grid: Grid, spec: RangesSpec) -> Tensor:
    """Return the smallest |x| that `spec.percentile` per cent of the values do not exceed.

    Source: percentile calibration of TensorRT Model Optimizer (99.99), on the values instead of a histogram.
    """
    count = rows.shape[1]
    rank = min(count, max(1, int(np.ceil(count * spec.percentile / 100))))
    return _covering(rows.abs().kthvalue(rank, dim=1).values, grid)


@INITIALISERS.register("mse")
def _mse(rows: Tensor, grid: Grid, spec: RangesSpec) -> Tensor:
    """Return the scale of the least squared rounding error; see `ranges.mse_scale`."""
    whole = Grid(bits=grid.bits, signed=grid.signed, narrow=grid.narrow, axis=0)
    return mse_scale(rows, whole)


@INITIALISERS.register("kl")
def _kl(rows: Tensor, grid: Grid, spec: RangesSpec) -> Tensor:
    """Return the range whose rounded histogram diverges least from the clipped one; see `entropy_range`."""
    found = [entropy_range(row.abs().cpu().numpy(), levels=grid.high + 1) for row in rows]
    return _covering(torch.tensor(found, dtype=torch.float32).to(rows.device), grid)


def entropy_range(values: NDArray[np.float32], *, levels: int) -> float:
    """Return the range of TensorRT's entropy calibration.

    The histogram of the values has `BINS` bins; bin 0 takes the count of bin 1. For every i from `FEWEST_BINS`
    (or `levels`) on: P is the first i bins, with the mass of the others added to the last one; Q is the first i bins
    merged into `levels` groups, each group's count spread evenly over its non-empty bins. The range is the edge of the
    last i with the least KL(P || Q).

    Args:
        values: [n], not negative.
        levels: codes from 0 up: 128 for INT8, 256 for UINT8.

    Source: entropy calibration as in TensorRT Model Optimizer (calib/histogram.py). Deviation: an i that leaves more
    than `MOST_CLIPPED` of the values out is passed over. Where all values lie far from 0, as behind a mean or in a
    gate, the first bin that has any would have P = Q otherwise, and nearly everything would be clipped.
    """
    top = float(values.max(initial=0))
    if top == 0:
        return 0.0
    # In float64, whose smallest bins still have a width where all values are subnormal.
    counts, edges = np.histogram(values.astype(np.float64), bins=BINS, range=(0.0, top))
    histogram = counts.astype(np.float64)
    within = np.cumsum(counts) / counts.sum()
    enough = 1 + int(np.searchsorted(within, 1 - MOST_CLIPPED))
    histogram[0] = histogram[1]
    best, found = np.inf, BINS
    for kept in range(max(FEWEST_BINS, levels, enough), BINS + 1):
        divergence = _divergence(histogram, kept, levels)
        if divergence <= best:
            best, found = divergence, kept
    return float(edges[found])


def _divergence(histogram: NDArray[np.float64], kept: int, levels: int) -> float:
    """Return KL(P || Q) of `entropy_range` for the first `kept` bins; infinite where Q lacks a bin of P."""
    shown = histogram[:kept]
    clipped = shown.copy()
    clipped[-1] += histogram[kept:].sum()
    group = np.minimum(np.arange(kept) * levels // kept, levels - 1)
    filled = shown > 0
    sums = np.bincount(group, weights=shown, minlength=levels)
    used = np.bincount(group, weights=filled, minlength=levels)
    spread = np.where(filled, sums[group] / np.maximum(used[group], 1), 0.0)
    present = clipped > 0
    if not filled.any() or (spread[present] == 0).any():
        return float(np.inf)
    p, q = clipped / clipped.sum(), spread / spread.sum()
    return float((p[present] * np.log(p[present] / q[present])).sum())
