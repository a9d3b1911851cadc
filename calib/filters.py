"""Filters and transforms of pictures, all differentiable."""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor

from edgeq.core.specs import Layout

# The longest axis that is filtered by a matrix, which is faster; one of a second of sound would take a gigabyte.
LONGEST_MATRIX = 512


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
    if max(height, width) <= LONGEST_MATRIX:
        rows, columns = (_lowpass_matrix(size, cutoff, x.device) for size in (height, width))
        return rows @ (x @ columns)
    rows, columns = (_gain(size, cutoff, x.device) for size in (height, width))
    x = torch.fft.irfft(torch.fft.rfft(x) * columns, n=width)
    damped: Tensor = torch.fft.irfft(torch.fft.rfft(x, dim=-2) * rows[:, None], n=height, dim=-2)
    return damped


@functools.lru_cache(maxsize=16)
def _lowpass_matrix(size: int, cutoff: float, device: torch.device) -> Tensor:
    """Return the filter of one axis, [size, size] and symmetric: the Gaussian is a product of those of both axes."""
    spectrum = torch.fft.rfft(torch.eye(size, device=device)) * _gain(size, cutoff, device)
    matrix: Tensor = torch.fft.irfft(spectrum, n=size)
    return matrix


def _gain(size: int, cutoff: float, device: torch.device) -> Tensor:
    """Return the factor of each frequency that `rfft` gives along an axis of `size` values, [size // 2 + 1]."""
    frequencies = torch.fft.rfftfreq(size, device=device) * 2
    return torch.exp(-frequencies.square() / (2 * cutoff**2))


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


def random_crops(x: Tensor, smallest: float, generator: torch.Generator) -> Tensor:
    """Return a crop of each picture, scaled back to the full size, mirrored every other time.

    Args:
        x: [N, C, H, W].
        smallest: least share of the area; the share is uniform from it to 1, the aspect 3/4 to 4/3 times the
            picture's, evenly on the logarithm. A side that would be longer than the picture's is cut to it, which can
            leave a share that is less by up to a seventh.
        generator: of each picture's own crop.

    Source: block D3, the local object reinforcement of IntraQ (Zhong et al., CVPR 2022); also HAST and SynQ.
    """
    count = len(x)
    area, aspect, across, down, mirrored = torch.rand(5, count, generator=generator)
    area = smallest + (1 - smallest) * area
    aspect = torch.exp((2 * aspect - 1) * math.log(4 / 3))
    width, height = (area * aspect).sqrt().clamp_max(1), (area / aspect).sqrt().clamp_max(1)
    frames = torch.zeros(count, 2, 3)
    frames[:, 0, 0] = torch.where(mirrored < 0.5, -width, width)
    frames[:, 0, 2] = (2 * across - 1) * (1 - width)
    frames[:, 1, 1] = height
    frames[:, 1, 2] = (2 * down - 1) * (1 - height)
    places = torch.nn.functional.affine_grid(frames.to(x), list(x.shape), align_corners=False)
    return torch.nn.functional.grid_sample(x, places, padding_mode="border", align_corners=False)
