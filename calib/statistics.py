"""BN-statistics terms: how far the teacher's activations are from the statistics it was trained with.

Notation of one layer: a [N, C, H, W] or [N, C] is the tensor that enters the BatchNormalization; mu, s [C] are its
stored mean and standard deviation sqrt(var + eps); m, w are the measured mean and standard deviation, over N, H, W
(of the batch, [C]) or over H, W of each sample ([N, C]).

Every deviation is divided by s, so that a layer of small variance counts as much as one of large variance
(deviation from ZeroQ's A1, which sums absolute squares over channels and lets the widest layers rule).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from edgeq.core.errors import CalibError
from edgeq.core.specs import BNTable
from edgeq.teacher.compute import CPU

# The least that is added to a variance before its root, whose derivative is infinite at 0.
VARIANCE_FLOOR = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerStatistics:
    """Targets of one layer.

    Attributes:
        mean, std: [C], float32; or [N, C], where each sample has its own.
        mean_slack, std_slack: deviations that cost nothing, in the unit of the distance: relative to std, or that of
            the activation; [C] where several layers are joined.
        eps: what the variance of `std` has in it beside that of the data, and a measured one is to have, too; [C] where
            several layers are joined.
    """

    mean: Tensor
    std: Tensor
    mean_slack: float | Tensor = 0.0
    std_slack: float | Tensor = 0.0
    eps: float | Tensor = VARIANCE_FLOOR


Distance = Callable[[Tensor, Tensor, LayerStatistics], Tensor]


def targets_from_table(table: BNTable, device: torch.device = CPU) -> list[LayerStatistics]:
    """Return one target a table entry, without slack, on `device`."""
    targets = []
    for entry in table.entries:
        mean, eps = torch.tensor(entry.mean), max(entry.eps, VARIANCE_FLOOR)
        std = (torch.tensor(entry.var) + eps).sqrt()
        targets.append(LayerStatistics(mean=mean.to(device), std=std.to(device), eps=eps))
    return targets


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

    def to(self, device: torch.device) -> Moments:
        """Return the same on `device`."""
        of_samples = (self.sample_mean, self.sample_var)
        mean, var = (None if x is None else x.to(device) for x in of_samples)
        return Moments(
            mean=self.mean.to(device), var=self.var.to(device), sample_mean=mean, sample_var=var
        )


def find_moments(a: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return mean and biased variance of a [N, C, *positions]: of the batch, two [C], and of each sample, two [N, C].

    The batch's variance is the mean of the samples' variances plus the variance of their means, so the large tensor
    is read once for both.
    torch.var_mean gives the same; its CPU kernel takes about fifty times as long, its backward pass four passes. Where
    means are hundreds of standard deviations the difference of squares is inexact: 0.04 % of the variance at 100, 4 %
    at 1,000.
    """
    axes = tuple(range(2, a.ndim))
    wide = a.to(torch.promote_types(a.dtype, torch.float32))
    sample_mean = wide.mean(axes)
    power = torch.linalg.vector_norm(wide, dim=axes).square_().div_(a[0, 0].numel())
    sample_var = power.sub_(sample_mean.square()).clamp_min_(0)
    mean = sample_mean.mean(0)
    # var_mean takes several times as long along axis 0.
    between = (sample_mean - mean).square_().mean(0)
    return mean, sample_var.mean(0) + between, sample_mean, sample_var


def moments_gradient(
    grads: Sequence[Tensor], a: Tensor, mean: Tensor, sample_mean: Tensor
) -> Tensor:
    """Return the gradient by `a` from those by what `find_moments` gave, a tensor of its own.

    It is one product and one sum a value: with n positions and everything but a held,
    d/da = g_mean / n + 2 g_var (a - mean) / n.
    """
    by_mean, by_var, by_sample_mean, by_sample_var = grads
    samples, positions = len(a), a[0, 0].numel()
    between = 2 * by_var * (sample_mean - mean)
    by_sample_mean = by_sample_mean + (by_mean + between) / samples
    slope = (by_sample_var + by_var / samples) * (2 / positions)
    offset = (by_sample_mean / positions - slope * sample_mean).flatten()
    # slope a + offset in one pass over memory: BatchNormalization of one sample that has the channels of them all.
    flat, zero = a.reshape(1, -1, *a.shape[2:]), torch.zeros_like(offset)
    grad = F.batch_norm(flat, zero, torch.ones_like(zero), slope.flatten(), offset, eps=0.0)
    return grad.view(a.shape)


class _Moments(torch.autograd.Function):
    """`find_moments` with `moments_gradient`."""

    @staticmethod
    def forward(ctx: Any, a: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        found = find_moments(a)
        ctx.save_for_backward(a, found[0], found[2])
        return found

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return moments_gradient(grads, *ctx.saved_tensors)


def has_positions(a: Tensor) -> bool:
    """Return true if each sample of `a` [N, C, *positions] has statistics of its own: over more than one value."""
    return a.ndim > 2 and a[0, 0].numel() > 1


def measure(a: Tensor) -> Moments:
    """Return the moments of `a` [N, C, *positions]; one position is none."""
    if not has_positions(a):
        wide = a.flatten(1).to(torch.promote_types(a.dtype, torch.float32))
        var, mean = torch.var_mean(wide, 0, correction=0)
        return Moments(mean=mean, var=var, sample_mean=None, sample_var=None)
    apply: Callable[..., tuple[Tensor, Tensor, Tensor, Tensor]] = _Moments.apply
    mean, var, sample_mean, sample_var = apply(a)
    return Moments(mean=mean, var=var, sample_mean=sample_mean, sample_var=sample_var)


def pool_batches(parts: Sequence[Moments]) -> Moments:
    """Return the moments over several batches of one size, without those of their samples."""
    between, mean = torch.var_mean(torch.stack([part.mean for part in parts]), 0, correction=0)
    var = torch.stack([part.var for part in parts]).mean(0) + between
    return Moments(mean=mean, var=var, sample_mean=None, sample_var=None)


def deviation(mean: Tensor, var: Tensor, target: LayerStatistics) -> Tensor:
    """Return hinge(|m - mu| / s - delta)^2 + hinge(|w - s| / s - gamma)^2 of each channel.

    Args:
        mean: m, [C] of a batch or [N, C] of samples.
        var: w^2, shaped as `mean`.
        target: mu, s, and the slacks delta and gamma.

    Returns:
        [C] or [N, C], as `mean`.

    Source: ZeroQ A1 / GDFQ A2 with the slack of DSG (Zhang et al., CVPR 2021, eq. of SDA); relative, see module.
    """
    std = (var + target.eps).sqrt()
    mean_gap = ((mean - target.mean).abs() / target.std - target.mean_slack).clamp_min(0)
    std_gap = ((std - target.std).abs() / target.std - target.std_slack).clamp_min(0)
    return mean_gap.square() + std_gap.square()


def pooled_deviation(mean: Tensor, var: Tensor, target: LayerStatistics) -> Tensor:
    """Return |m - mu| / sqrt(w^2 + s^2) of each channel, as `deviation`.

    The standard deviations only weigh the means: nothing pulls w to s.

    Source: L_Z of GZSQ (Sharma, Abraham, Rajendiran, IEEE TMM 2021), its norm over channels read as the mean of the
    element-wise ratio.
    """
    spread = (var + target.std.square()).sqrt()
    return (mean - target.mean).abs() / spread


def by_layer(
    means: Sequence[Tensor],
    variances: Sequence[Tensor],
    targets: Sequence[LayerStatistics],
    distance: Distance,
    *,
    sum_channels: bool = False,
) -> Tensor:
    """Return the mean over channels (or their sum) of each layer's `distance`; [L] of a batch, [N, L] of samples.

    All layers are computed as one: dozens of layers with few channels each take longer one by one.

    Args:
        means: of each layer, [C] or [N, C].
        variances: likewise.
        targets: likewise.
        distance: one of `calib.distances`.
        sum_channels: sum, so that wide layers count more.
    """
    sizes = torch.tensor([mean.shape[-1] for mean in means])
    joined = LayerStatistics(
        mean=torch.cat([target.mean for target in targets], -1),
        std=torch.cat([target.std for target in targets], -1),
        mean_slack=_spread([float(t.mean_slack) for t in targets], sizes).to(means[0]),
        std_slack=_spread([float(t.std_slack) for t in targets], sizes).to(means[0]),
        eps=_spread([float(t.eps) for t in targets], sizes).to(means[0]),
    )
    gaps = distance(torch.cat(list(means), -1), torch.cat(list(variances), -1), joined)
    shares = torch.ones(len(sizes)) if sum_channels else 1 / sizes
    rows = torch.diag(shares).repeat_interleave(sizes, 0).to(gaps)
    layers: Tensor = torch.tensordot(gaps, rows, 1)
    return layers


def _spread(values: Sequence[float], sizes: Tensor) -> Tensor:
    """Return each layer's value at each of its channels."""
    return torch.tensor(values).repeat_interleave(sizes)


def batch_term(
    moments: Sequence[Moments],
    targets: Sequence[LayerStatistics],
    *,
    distance: Distance = deviation,
    sum_channels: bool = False,
    weights: Sequence[float] | None = None,
) -> Tensor:
    """Return the mean over layers of the batch's `distance` from the target; [].

    Args:
        moments: of each layer.
        targets: of each layer.
        distance: one of `calib.distances`.
        sum_channels: see `by_layer`.
        weights: a factor for each layer (block A9: TexQ, shallow layers less than deep ones), or None for 1.
    """
    losses = by_layer(
        [m.mean for m in moments],
        [m.var for m in moments],
        targets,
        distance,
        sum_channels=sum_channels,
    )
    if weights is not None:
        losses = losses * torch.tensor(weights).to(losses)
    return losses.mean()


def sample_term(
    moments: Sequence[Moments],
    targets: Sequence[LayerStatistics],
    *,
    enhancement: float,
    distance: Distance = deviation,
    sum_channels: bool = False,
) -> Tensor:
    """Return the mean over layers and samples of each sample's `distance`, one layer a sample enhanced; [].

    Of the L layers with equally many rows, row i pays layer (i mod L) `enhancement` times, every other one once: the
    layerwise sample enhancement of DSG with its (I + 1 1^T) for enhancement 2, for any batch size. Layers without
    positions take no part. A layer may see several rows a sample (frames of a video, two pictures that are compared):
    each of them is a sample of that layer.
    """
    rows = [
        (m.sample_mean, m.sample_var, target)
        for m, target in zip(moments, targets, strict=True)
        if m.sample_mean is not None and m.sample_var is not None
    ]
    if not rows:
        raise CalibError(
            "no BatchNormalization has spatial positions",
            why="statistics of one sample are taken over its positions",
            mend="pass --set synthesis.sample_statistics=0",
        )
    sums = []
    for length in dict.fromkeys(len(mean) for mean, _, _ in rows):
        alike = [row for row in rows if len(row[0]) == length]
        means, variances, own = zip(*alike, strict=True)
        losses = by_layer(means, variances, own, distance, sum_channels=sum_channels)
        weights = torch.ones_like(losses)
        index = torch.arange(length, device=losses.device)
        weights[index, index % len(alike)] = enhancement
        share = len(alike) / weights.sum()
        sums.append((losses * weights).sum() * share)
    return torch.stack(sums).sum() / len(rows)


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
        mean, std = moments.mean, (moments.var + target.eps).sqrt()
        unit = target.std if relative else torch.ones_like(target.std)
        gaps = [(mean - target.mean).abs() / unit, (std - target.std).abs() / unit]
        mean_slack, std_slack = (float(torch.quantile(gap, quantile)) for gap in gaps)
        relaxed.append(dataclasses.replace(target, mean_slack=mean_slack, std_slack=std_slack))
    return relaxed
