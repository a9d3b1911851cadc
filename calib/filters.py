"""Filters and transforms of pictures, all differentiable."""

from __future__ import annotations

import torch
from torch import Tensor

from edgeq.core.specs import Layout


def lowpass(x: Tensor, cutoff: float) -> Tensor:
    """Return `x` with high frequencies damped by exp(-D^2 / (2 r^2)).

    Args:
        x: [N, C, H, W].
        cutoff: r; D is the distance from zero frequency with the Nyquist frequency of each axis at 1. 0 returns `x`.

    Source: SynQ (Kim et al., ICLR 2025); r = D0 / (H / 2) of the paper, so that one figure serves every size.
    """
    if cutoff == 0:
        return x
    height, width = x.shape[-2:]
    rows = torch.fft.fftfreq(height, device=x.device) * 2
    columns = torch.fft.rfftfreq(width, device=x.device) * 2
    distance = rows[:, None].square() + columns[None].square()
    gain = torch.exp(-distance / (2 * cutoff**2))
    filtered: Tensor = torch.fft.irfft2(torch.fft.rfft2(x) * gain, s=(height, width))
    return filtered


def random_shift(
    x: Tensor, largest: int, generator: torch.Generator, *, axes: tuple[int, int] = (-2, -1)
) -> Tensor:
    """Return `x` rolled by random offsets of up to `largest` pixels along `axes`, its rows and columns."""
    if largest == 0:
        return x
    down, right = torch.randint(-largest, largest + 1, (2,), generator=generator).tolist()
    return torch.roll(x, (down, right), axes)


def channels_first_filter(x: Tensor, cutoff: float, layout: Layout) -> Tensor:
    """Return the low-passed pictures, whatever their layout; other inputs are returned as they are."""
    if layout is Layout.NHWC:
        return lowpass(x.permute(0, 3, 1, 2), cutoff).permute(0, 2, 3, 1)
    return lowpass(x, cutoff) if layout is Layout.NCHW else x
