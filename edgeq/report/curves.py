"""Curves as SVG paths: a loss over the steps, the spectrum over the frequency."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

WIDTH, HEIGHT = 240, 80

# More points than this do not show: neighbours are averaged.
POINTS = 120


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """One curve in a box of WIDTH x HEIGHT.

    Attributes:
        name: what it shows.
        line: its path; broken where a value cannot be drawn.
        low, high: values at the lower and the upper edge.
        first, last: values at both ends.
    """

    name: str
    line: str
    low: float
    high: float
    first: float
    last: float


def draw_curve(name: str, values: Sequence[float], *, is_log: bool = False) -> Curve:
    """Return the curve of `values`, at least one, at equal distances.

    Args:
        name: what it shows.
        values: finite; on a linear axis, the axis begins at 0 or at the lowest value below.
        is_log: draw the logarithm; values that are not positive are left out.
    """
    means = [float(np.mean(part)) for part in np.array_split(values, min(len(values), POINTS))]
    drawn = [_height(mean, is_log=is_log) for mean in means]
    known = [height for height in drawn if height is not None] or [0.0]
    low, high = min(known) if is_log else min(0.0, *known), max(known)
    span = high - low or 1.0
    words, is_open = [], False
    for index, height in enumerate(drawn):
        if height is None:
            is_open = False
            continue
        x = WIDTH * index / max(1, len(drawn) - 1)
        y = 1 + (HEIGHT - 2) * (1 - (height - low) / span)
        words.append(f"{'L' if is_open else 'M'}{x:.1f} {y:.1f}")
        is_open = True
    if len(drawn) == 1:
        words.append(f"H{WIDTH}")
    edges = (math.exp(low), math.exp(high)) if is_log else (low, high)
    return Curve(
        name=name, line="".join(words), low=edges[0], high=edges[1], first=means[0], last=means[-1]
    )


def _height(value: float, *, is_log: bool) -> float | None:
    if not is_log:
        return value
    return math.log(value) if value > 0 else None
