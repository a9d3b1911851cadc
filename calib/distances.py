"""Distances between measured and recorded statistics, by the name that `SynthesisSpec.distance` gives.

Each takes the mean [..., C] and the biased variance [..., C] of an activation and the layer's target, and gives [...],
a mean over the channels. The leading axis is that of samples, where the statistics are those of each sample.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from calib.statistics import VARIANCE_FLOOR, LayerStatistics, deviation, pooled_deviation

Distance = Callable[[Tensor, Tensor, LayerStatistics], Tensor]


def std_distance(mean: Tensor, var: Tensor, target: LayerStatistics) -> Tensor:
    """Return mean_c [ max(|m - mu| - delta, 0)^2 + max(|w - s| - gamma, 0)^2 ].

    Source: ZeroQ's block A1 (sum over channels) and Genie's A3 (mean), both without slack; A6 with DSG's slack.
    Deviation: biased variances in the place of unbiased ones.
    """
    mean_gap = ((mean - target.mean).abs() - target.mean_slack).clamp_min(0)
    std = (var + VARIANCE_FLOOR).sqrt()
    std_gap = ((std - target.std).abs() - target.std_slack).clamp_min(0)
    return (mean_gap.square() + std_gap.square()).mean(-1)


def variance_distance(mean: Tensor, var: Tensor, target: LayerStatistics) -> Tensor:
    """Return mean_c [ (m - mu)^2 + (w^2 - s^2)^2 ]; layers of large variance rule the sum over layers.

    Source: block A2 (GDFQ, Xu et al., ECCV 2020; IntraQ, HAST, SynQ, TexQ). Deviation: s^2 has the layer's eps in it.
    """
    gaps = (mean - target.mean).square() + (var - target.std.square()).square()
    return gaps.mean(-1)


def sum_channels(distance: Distance) -> Distance:
    """Return `distance` as a sum over the channels, so that wide layers count more."""
    return lambda mean, var, target: mean.shape[-1] * distance(mean, var, target)


DISTANCES: dict[str, Distance] = {
    "relative": deviation,
    "std": std_distance,
    "variance": variance_distance,
    "pooled": pooled_deviation,
}
