"""How the values of a tensor lie on its grid: counted in codes, batch by batch, and drawn as SVG paths.

The pictures are plain paths without a plotting library: a report has two or three a layer, they take their colours from
the page's light or dark style, and equal numbers give equal bytes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeq.core.numerics import along_axis
from edgeq.core.plan import Grid

WIDTH, HEIGHT = 160, 44


@dataclass(frozen=True, slots=True, kw_only=True)
class Histogram:
    """A picture of how often each code is met; heights are logarithmic.

    Attributes:
        area: the path of the filled steps, in a box of WIDTH x HEIGHT.
        low_x, high_x: where the grid begins and ends.
        low, high: its lowest and highest code.
        used: how many codes of the grid are met at all.
        clipped_pct: share of the values that the grid saturates.
    """

    area: str
    low_x: float
    high_x: float
    low: int
    high: int
    used: int
    clipped_pct: float


class CodeCounter:
    """Counts the codes that values would have if the grid went on beyond its ends.

    Args:
        grid: of the tensor.
        scale: [] or [C] along the grid's axis, float32.
    """

    def __init__(self, grid: Grid, scale: NDArray[np.float32]) -> None:
        self._grid, self._scale = grid, scale
        self._group = max(1, 2 ** (grid.bits - 6))  # at most 64 bars for the grid
        self._margin = self._group * max(1, 2 ** min(grid.bits, 6) // 8)
        self._ends = grid.low - self._margin, grid.high + self._margin
        self._counts = np.zeros(self._ends[1] - self._ends[0] + 1, np.int64)

    def add(self, x: NDArray[np.floating]) -> None:
        """Count the values `x`: [N, ...], in the unit of the scale; those beyond the margin count at its end."""
        steps = np.asarray(x, np.float32) / along_axis(self._scale, x.ndim, self._grid.axis or 0)
        np.rint(steps, out=steps)
        np.clip(steps, *self._ends, out=steps)
        self._count(steps.astype(np.int64))

    def add_codes(self, codes: NDArray[np.integer]) -> None:
        """Count codes, likewise."""
        self._count(np.clip(codes.astype(np.int64), *self._ends))

    def _count(self, codes: NDArray[np.int64]) -> None:
        codes -= self._ends[0]
        self._counts += np.bincount(codes.reshape(-1), minlength=self._counts.size)

    def draw(self) -> Histogram:
        """Return the picture of what was counted so far."""
        inner = self._counts[self._margin : -self._margin]
        total = int(self._counts.sum())
        size = self._counts.size
        return Histogram(
            area=_steps(self._grouped()),
            low_x=round(WIDTH * self._margin / size, 1),
            high_x=round(WIDTH * (size - self._margin) / size, 1),
            low=self._grid.low,
            high=self._grid.high,
            used=int(np.count_nonzero(inner)),
            clipped_pct=100 * (total - int(inner.sum())) / total if total else 0.0,
        )

    def _grouped(self) -> NDArray[np.int64]:
        padded = np.pad(self._counts, (0, -self._counts.size % self._group))
        sums: NDArray[np.int64] = padded.reshape(-1, self._group).sum(axis=1)
        return sums


def _steps(counts: NDArray[np.int64]) -> str:
    """Return the closed path of bars without gaps."""
    top = math.log1p(int(counts.max(initial=0))) or 1.0
    words = [f"M0 {HEIGHT}"]
    for index, count in enumerate(counts.tolist()):
        y = HEIGHT * (1 - math.log1p(count) / top)
        words.append(f"V{y:.1f}H{WIDTH * (index + 1) / len(counts):.1f}")
    return "".join([*words, f"V{HEIGHT}Z"])
