"""First ranges: the scale at which rounding costs the least, by search."""

from __future__ import annotations

import torch
from torch import Tensor

from edgeq.core.errors import NumericsError
from edgeq.core.numerics import SMALLEST_SCALE, largest_scale
from edgeq.core.plan import Grid

# Shares of the largest absolute value that are tried as amax: the value itself, so that the search is never worse than
# it, and a series 6 % apart, so that the found scale is within 3 % of the best one. Above 1 the coarsest grids gain
# (2 and 3 bits).
CANDIDATES = (1.0, *(1.3 * 0.94**power for power in range(64)))

# The place in a run of values from which one is taken moves by this share of the run. A fixed place would see one
# column of every picture, or a few channels, wherever the run is a multiple of a row: powers of 2, as a rule.
GOLDEN_RATIO = (5**0.5 - 1) / 2


def mse_scale(x: Tensor, grid: Grid, *, limit: float | None = None) -> Tensor:
    """Return the scale with the least squared rounding error among `CANDIDATES`.

    Args:
        x: any shape; per channel along `grid.axis` where that is given.
        grid: the codes.
        limit: what the highest code may stand for at most, or None.

    Returns:
        [] or [C], float32, at least `SMALLEST_SCALE`; a channel of zeros gets the scale 1 / high.

    Raises:
        NumericsError: if `x` has NaN or infinity.

    Source: OMSE / Lp grid search with p = 2.
    """
    rows = to_rows(x, grid)
    amax = rows.abs().amax(1, keepdim=True)
    amax = torch.where(amax > 0, amax, torch.ones_like(amax))
    best = torch.full_like(amax, float("inf"))
    scale = amax / grid.high
    for share in CANDIDATES:
        candidate = amax * share / grid.high
        rounded = (rows / candidate).round_().clamp_(grid.low, grid.high).mul_(candidate)
        error = rounded.sub_(rows).square_().sum(1, keepdim=True)
        better = error < best
        best = torch.where(better, error, best)
        scale = torch.where(better, candidate, scale)
    scale = scale.clamp_min(SMALLEST_SCALE)
    if limit is not None:
        scale = scale.clamp_max(float(largest_scale(limit, high=grid.high)))
    return scale[0, 0] if grid.axis is None else scale[:, 0]


def to_rows(x: Tensor, grid: Grid) -> Tensor:
    """Return `x` with one row a channel of `grid.axis`, or as one row: [C, n] or [1, n], float32.

    Raises:
        NumericsError: if `x` has NaN or infinity.
    """
    rows = x.reshape(1, -1) if grid.axis is None else x.movedim(grid.axis, 0).flatten(1)
    rows = rows.detach().float()
    if not torch.isfinite(rows).all():
        raise NumericsError(
            "NaN or infinity in a tensor whose range is wanted",
            why="a range is taken over finite values",
            mend="look for overflow in the model; a float16 file may need to be exported in float32",
        )
    return rows


class ValueSample:
    """A bounded, deterministic sample of the values of a tensor that is seen batch by batch.

    Args:
        limit: how many values are kept of each batch at least, where it has them; fewer than twice as many are.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._parts: list[Tensor] = []
        self._peaks: list[Tensor] = []

    def add(self, x: Tensor) -> None:
        """Keep one value of each of `limit` runs of equal length in `x`, or somewhat more, and its extremes."""
        flat = x.detach().flatten()
        run = max(1, flat.numel() // self._limit)
        runs = torch.arange(flat.numel() // run, device=flat.device)
        places = (runs.double() * GOLDEN_RATIO % 1 * run).long()
        self._parts += [flat[runs * run + places], flat.amin()[None], flat.amax()[None]]
        self._peaks.append(flat.abs().amax()[None])

    def values(self) -> Tensor:
        """Return everything that was kept, [n]."""
        return torch.cat(self._parts)

    def peaks(self) -> Tensor:
        """Return the largest absolute value of each batch, [batches]."""
        return torch.cat(self._peaks)
