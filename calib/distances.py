"""Distances between measured and recorded statistics, by the name that `SynthesisSpec.distance` gives.

Each takes the mean [..., C] and the biased variance [..., C] of an activation and the layer's target, and gives the
distance of each channel, [..., C]. The leading axis is that of samples, where the statistics are those of each sample.
`calib.statistics.by_layer` makes one figure a layer of them.
"""

from __future__ import annotations

from torch import Tensor

from calib.statistics import (
    Distance,
    LayerStatistics,
    deviation,
    pooled_deviation,
)


def std_distance(mean: Tensor, var: Tensor, target: LayerStatistics) -> Tensor:
    """Return max(|m - mu| - delta, 0)^2 + max(|w - s| - gamma, 0)^2 of each channel.

    Source: ZeroQ's block A1 (sum over channels) and Genie's A3 (mean), both without slack; A6 with DSG's slack.
    Deviation: biased variances in the place of unbiased ones.
    """
    mean_gap = ((mean - target.mean).abs() - target.mean_slack).clamp_min(0)
    std = (var + target.eps).sqrt()
    std_gap = ((std - target.std).abs() - target.std_slack).clamp_min(0)
    return mean_gap.square() + std_gap.square()


def variance_distance(mean: Tensor, var: Tensor, target: LayerStatistics) -> Tensor:
    """Return (m - mu)^2 + (w^2 - s^2)^2 of each channel; layers of large variance rule the sum over layers.

    Source: block A2 (GDFQ, Xu et al., ECCV 2020; IntraQ, HAST, SynQ, TexQ).
    """
    return (mean - target.mean).square() + (var + target.eps - target.std.square()).square()


DISTANCES: dict[str, Distance] = {
    "relative": deviation,
    "std": std_distance,
    "variance": variance_distance,
    "pooled": pooled_deviation,
}
