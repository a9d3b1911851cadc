"""BN-statistics terms: how far the teacher's activations are from the statistics it was trained with.

Notation of one layer: a [N, C, H, W] or [N, C] is the tensor that enters the BatchNormalization; mu, s [C] are its
stored mean and standard deviation sqrt(var + eps); m, w are the measured mean and standard deviation, over N, H, W
(of the batch, [C]) or over H, W of each sample ([N, C]).

Every deviation is divided by s, so that a layer of small variance counts as much as one of large variance
(deviation from ZeroQ's A1, which sums absolute squares over channels and lets the widest layers rule).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from edgeq.core.errors import CalibError
from edgeq.core.specs import BNTable
from edgeq.teacher.compute import CPU

# Added to a measured variance before its root; the derivative of the root is infinite at 0.
VARIANCE_FLOOR = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerStatistics:
    """Targets of one layer.

    Attributes:
        mean, std: [C], float32.
        mean_slack, std_slack: deviations that cost nothing, in the unit of the distance: relative to std, or that of
            the activation.
    """

    mean: Tensor
    std: Tensor
    mean_slack: float = 0.0
    std_slack: float = 0.0


def targets_from_table(table: BNTable, device: torch.device = CPU) -> list[LayerStatistics]:
    """Return one target a table entry, without slack, on `device`."""
    return [
        LayerStatistics(
            mean=torch.tensor(entry.mean).to(device),
            std=(torch.tensor(entry.var) + entry.eps).sqrt().to(device),
        )
        for entry in table.entries
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Moments:
    """What one pass over an activation gives; variances are biased.

    Attributes:
        mean, var: [C], over the batch and all positions.
        sample_mean, sample_var: [N, C], over the positions of each sample; None without positions.
    """

    mean: Tensor
    var: Tensor
    sample_mean: Tensor | None
    sample_var: Tensor | None


class _SampleMoments(torch.autograd.Function):
    """Mean and biased variance of each sample's channels: [N, C, *positions] to two [N, C].

    torch.var_mean gives the same; its CPU kernel takes about fifty times as long, and its backward pass four passes
    over the large tensor where one is enough: with n positions, d/dx = g_mean / n + 2 g_var (x - mean) / n.
    """

    @staticmethod
    def forward(ctx: Any, a: Tensor) -> tuple[Tensor, Tensor]:
        axes = tuple(range(2, a.ndim))
        count = a[0, 0].numel()
        wide = torch.promote_types(a.dtype, torch.float32)
        mean = a.sum(axes, dtype=wide) / count
        power = torch.linalg.vector_norm(a, dim=axes, dtype=wide).square() / count
        ctx.save_for_backward(a, mean)
        return mean, (power - mean.square()).clamp_min(0)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        by_mean, by_var = grads
        a, mean = ctx.saved_tensors
        count = a[0, 0].numel()
        slope = 2 * by_var / count
        shape = (*mean.shape, *[1] * (a.ndim - 2))
        offset = by_mean / count - slope * mean
        slope, offset = (item.view(shape).to(a.dtype) for item in (slope, offset))
        grad: Tensor = a.mul(slope).add_(offset)
        return grad


def measure(a: Tensor) -> Moments:
    """Return the moments of `a` [N, C, *positions].

    The batch's variance is the mean of the samples' variances plus the variance of their means, so the large tensor
    is read once for both.
    """
    if a.ndim == 2:
        var, mean = torch.var_mean(
            a.to(torch.promote_types(a.dtype, torch.float32)), 0, correction=0
        )
        return Moments(mean=mean, var=var, sample_mean=None, sample_var=None)
    apply: Callable[..., tuple[Tensor, Tensor]] = _SampleMoments.apply
    sample_mean, sample_var = apply(a)
    between, mean = torch.var_mean(sample_mean, 0, correction=0)
    return Moments(
        mean=mean,
        var=sample_var.mean(0) + between,
        sample_mean=sample_mean,
        sample_var=sample_var,
    )


def deviation(mean: Tensor, var: Tensor, target: LayerStatistics) -> Tensor:
    """Return mean_c [ hinge(|m - mu| / s - delta)^2 + hinge(|w - s| / s - gamma)^2 ].

    Args:
        mean: m, [C] of a batch or [N, C] of samples.
        var: w^2, shaped as `mean`.
        target: mu, s, and the slacks delta and gamma.

    Returns:
        [] for the batch, [N] per sample.

    Source: ZeroQ A1 / GDFQ A2 with the slack of DSG (Zhang et al., CVPR 2021, eq. of SDA); relative, see module.
    """
    std = (var + VARIANCE_FLOOR).sqrt()
    mean_gap = ((mean - target.mean).abs() / target.std - target.mean_slack).clamp_min(0)
    std_gap = ((std - target.std).abs() / target.std - target.std_slack).clamp_min(0)
    return (mean_gap.square() + std_gap.square()).mean(-1)


def pooled_deviation(mean: Tensor, var: Tensor, target: LayerStatistics) -> Tensor:
    """Return mean_c [ |m - mu| / sqrt(w^2 + s^2) ]; [] for the batch, [N] per sample.

    The standard deviations only weigh the means: nothing pulls w to s.

    Source: L_Z of GZSQ (Sharma, Abraham, Rajendiran, IEEE TMM 2021), its norm over channels read as the mean of the
    element-wise ratio.
    """
    spread = (var + target.std.square() + VARIANCE_FLOOR).sqrt()
    return ((mean - target.mean).abs() / spread).mean(-1)


def batch_term(
    moments: Sequence[Moments],
    targets: Sequence[LayerStatistics],
    *,
    distance: Callable[[Tensor, Tensor, LayerStatistics], Tensor] = deviation,
    weights: Sequence[float] | None = None,
) -> Tensor:
    """Return the mean over layers of the batch's `distance` from the target; [].

    Args:
        moments: of each layer.
        targets: of each layer.
        distance: one of `calib.distances`.
        weights: a factor for each layer (block A9: TexQ, shallow layers less than deep ones), or None for 1.
    """
    losses = [distance(m.mean, m.var, t) for m, t in zip(moments, targets, strict=True)]
    if weights is not None:
        losses = [weight * loss for weight, loss in zip(weights, losses, strict=True)]
    return torch.stack(losses).mean()


def sample_term(
    moments: Sequence[Moments],
    targets: Sequence[LayerStatistics],
    *,
    enhancement: float,
    distance: Callable[[Tensor, Tensor, LayerStatistics], Tensor] = deviation,
) -> Tensor:
    """Return the mean over layers and samples of each sample's `distance`, one layer a sample enhanced; [].

    Sample i pays layer (i mod L) `enhancement` times, every other layer once: the layerwise sample enhancement of DSG
    with its (I + 1 1^T) for enhancement 2, for any batch size. Layers without positions take no part.
    """
    rows = [
        distance(m.sample_mean, m.sample_var, t)
        for m, t in zip(moments, targets, strict=True)
        if m.sample_mean is not None and m.sample_var is not None
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
    index = torch.arange(samples, device=losses.device)
    weights[index % layers, index] = enhancement
    return (losses * weights).sum() / weights.sum()


def with_slack(
    targets: Sequence[LayerStatistics],
    noise: Sequence[Moments],
    *,
    quantile: float,
    relative: bool = True,
) -> list[LayerStatistics]:
    """Return the targets with DSG's slack: the `quantile` over channels of the deviation that noise shows.

    Args:
        targets: without slack.
        noise: the moments of the same layers on N(0, 1) inputs.
        quantile: 0.9 in the paper; one slack for means and one for standard deviations a layer.
        relative: give it relative to the layer's standard deviation, else in the unit of the activation (the paper).
    """
    relaxed = []
    for target, moments in zip(targets, noise, strict=True):
        mean, std = moments.mean, (moments.var + VARIANCE_FLOOR).sqrt()
        unit = target.std if relative else torch.ones_like(target.std)
        gaps = [(mean - target.mean).abs() / unit, (std - target.std).abs() / unit]
        mean_slack, std_slack = (float(torch.quantile(gap, quantile)) for gap in gaps)
        relaxed.append(
            LayerStatistics(
                mean=target.mean, std=target.std, mean_slack=mean_slack, std_slack=std_slack
            )
        )
    return relaxed
