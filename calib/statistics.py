"""BN-statistics terms: how far the teacher's activations are from the statistics it was trained with.

Notation of one layer: a [N, C, H, W] or [N, C] is the tensor that enters the BatchNormalization; mu, s [C] are its
stored mean and standard deviation sqrt(var + eps); m, w are the measured mean and standard deviation, over N, H, W
(scope "batch", [C]) or over H, W of each sample (scope "sample", [N, C]).

Every deviation is divided by s, so that a layer of small variance counts as much as one of large variance
(deviation from ZeroQ's A1, which sums absolute squares over channels and lets the widest layers rule).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from edgeq.core.errors import CalibError
from edgeq.core.specs import BNTable

# Added to a measured variance before its root; the derivative of the root is infinite at 0.
VARIANCE_FLOOR = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerStatistics:
    """Targets of one layer.

    Attributes:
        mean, std: [C], float32.
        mean_slack, std_slack: deviations, relative to std, that cost nothing.
    """

    mean: Tensor
    std: Tensor
    mean_slack: float = 0.0
    std_slack: float = 0.0


def targets_from_table(table: BNTable) -> list[LayerStatistics]:
    """Return one target a table entry, without slack."""
    return [
        LayerStatistics(
            mean=torch.tensor(entry.mean),
            std=(torch.tensor(entry.var) + entry.eps).sqrt(),
        )
        for entry in table.entries
    ]


def measure(a: Tensor, *, per_sample: bool) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation (biased) of `a` over its positions.

    Args:
        a: [N, C, *positions]; a tensor without positions has batch statistics only.
        per_sample: false: over N and positions, [C] each; true: over positions, [N, C] each.
    """
    axes = tuple(range(2, a.ndim)) if per_sample else (0, *range(2, a.ndim))
    var, mean = torch.var_mean(a, axes, correction=0)
    return mean, (var + VARIANCE_FLOOR).sqrt()


def deviation(a: Tensor, target: LayerStatistics, *, per_sample: bool) -> Tensor:
    """Return mean_c [ hinge(|m - mu| / s - delta)^2 + hinge(|w - s| / s - gamma)^2 ].

    Args:
        a: [N, C, *positions].
        target: mu, s, and the slacks delta and gamma.
        per_sample: as in `measure`.

    Returns:
        [] for the batch, [N] per sample.

    Source: ZeroQ A1 / GDFQ A2 with the slack of DSG (Zhang et al., CVPR 2021, eq. of SDA); relative, see module.
    """
    mean, std = measure(a, per_sample=per_sample)
    mean_gap = ((mean - target.mean).abs() / target.std - target.mean_slack).clamp_min(0)
    std_gap = ((std - target.std).abs() / target.std - target.std_slack).clamp_min(0)
    return (mean_gap.square() + std_gap.square()).mean(-1)


def batch_term(activations: Sequence[Tensor], targets: Sequence[LayerStatistics]) -> Tensor:
    """Return the mean over layers of the batch's deviation; []."""
    losses = [
        deviation(a, target, per_sample=False)
        for a, target in zip(activations, targets, strict=True)
    ]
    return torch.stack(losses).mean()


def sample_term(
    activations: Sequence[Tensor], targets: Sequence[LayerStatistics], *, enhancement: float
) -> Tensor:
    """Return the mean over layers and samples of each sample's deviation, one layer a sample enhanced; [].

    Sample i pays layer (i mod L) `enhancement` times, every other layer once: the layerwise sample enhancement of DSG
    with its (I + 1 1^T) for enhancement 2, for any batch size. Layers without positions take no part.
    """
    rows = [
        deviation(a, target, per_sample=True)
        for a, target in zip(activations, targets, strict=True)
        if a.ndim > 2
    ]
    if not rows:
        raise CalibError(
            "no BatchNormalization has spatial positions",
            why="statistics of one sample are taken over its positions",
            mend="pass --set synthesis.sample_statistics=0",
        )
    losses = torch.stack(rows)
    layers, samples = losses.shape
    weights = torch.ones_like(losses)
    index = torch.arange(samples)
    weights[index % layers, index] = enhancement
    return (losses * weights).sum() / weights.sum()


def with_slack(
    targets: Sequence[LayerStatistics], noise_activations: Sequence[Tensor], *, quantile: float
) -> list[LayerStatistics]:
    """Return the targets with DSG's slack: the `quantile` over channels of the deviation that noise shows.

    Args:
        targets: without slack.
        noise_activations: the same layers on N(0, 1) inputs.
        quantile: 0.9 in the paper; one slack for means and one for standard deviations a layer.
    """
    relaxed = []
    for target, a in zip(targets, noise_activations, strict=True):
        mean, std = measure(a, per_sample=False)
        gaps = [(mean - target.mean).abs() / target.std, (std - target.std).abs() / target.std]
        mean_slack, std_slack = (float(torch.quantile(gap, quantile)) for gap in gaps)
        relaxed.append(
            LayerStatistics(
                mean=target.mean, std=target.std, mean_slack=mean_slack, std_slack=std_slack
            )
        )
    return relaxed
