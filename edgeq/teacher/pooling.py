"""Pooling. Common forms go to torch's own kernels; the rest (uneven padding, dilated means) is padded first."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from edgeq.teacher.converters import AutoPad, converter
from edgeq.teacher.windows import Window, make_window

_CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_MAX_POOL = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
_AVG_POOL = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}


def _suits_torch(window: Window) -> bool:
    return window.is_symmetric and all(
        2 * pad <= length for pad, length in zip(window.begin, window.kernel, strict=True)
    )


@converter("MaxPool")
def max_pool(
    x: Tensor,
    *,
    kernel_shape: tuple[int, ...],
    auto_pad: AutoPad = "NOTSET",
    ceil_mode: int = 0,
    dilations: tuple[int, ...] = (),
    pads: tuple[int, ...] = (),
    storage_order: int = 0,
    strides: tuple[int, ...] = (),
) -> Tensor:
    """Return the maximum of every window of x [N, C, *S]; `storage_order` speaks of Indices, which edgeq refuses."""
    window = make_window(
        x.shape[2:],
        kernel_shape,
        strides=strides,
        dilations=dilations,
        pads=pads,
        auto_pad=auto_pad,
    )
    pool = _MAX_POOL[x.dim() - 2]
    if _suits_torch(window):
        return pool(
            x, kernel_shape, window.strides, window.begin, window.dilations, bool(ceil_mode)
        )
    extra = window.ceil_extra(x.shape[2:]) if ceil_mode else ()
    padded = F.pad(x, window.flat_pads(extra), value=-torch.inf)
    return pool(padded, kernel_shape, window.strides, 0, window.dilations)


@converter("AveragePool")
def average_pool(
    x: Tensor,
    *,
    kernel_shape: tuple[int, ...],
    auto_pad: AutoPad = "NOTSET",
    ceil_mode: int = 0,
    count_include_pad: int = 0,
    dilations: tuple[int, ...] = (),
    pads: tuple[int, ...] = (),
    strides: tuple[int, ...] = (),
) -> Tensor:
    """Return the mean of every window of x [N, C, *S]; padding counts only with `count_include_pad`.

    What ceil_mode adds behind never counts.
    """
    window = make_window(
        x.shape[2:],
        kernel_shape,
        strides=strides,
        dilations=dilations,
        pads=pads,
        auto_pad=auto_pad,
    )
    if _suits_torch(window) and set(window.dilations) == {1}:
        pool = _AVG_POOL[x.dim() - 2]
        return pool(
            x, kernel_shape, window.strides, window.begin, bool(ceil_mode), bool(count_include_pad)
        )
    extra = window.ceil_extra(x.shape[2:]) if ceil_mode else [0] * len(kernel_shape)
    counted = F.pad(x.new_ones(1, 1, *x.shape[2:]), window.flat_pads(), value=count_include_pad)
    counted = F.pad(counted, [pad for more in reversed(extra) for pad in (0, more)])
    total = _sum_windows(F.pad(x.flatten(0, 1).unsqueeze(1), window.flat_pads(extra)), window)
    return (total / _sum_windows(counted, window)).reshape(*x.shape[:2], *total.shape[2:])


def _sum_windows(x: Tensor, window: Window) -> Tensor:
    ones = x.new_ones(1, 1, *window.kernel)
    return _CONV[len(window.kernel)](x, ones, None, window.strides, 0, window.dilations)


@converter("GlobalAveragePool")
def global_average_pool(x: Tensor) -> Tensor:
    """Return the mean over all spatial axes, kept as axes of size 1."""
    return x.mean(dim=tuple(range(2, x.dim())), keepdim=True)


@converter("GlobalMaxPool")
def global_max_pool(x: Tensor) -> Tensor:
    """Return the maximum over all spatial axes, kept as axes of size 1."""
    return x.amax(dim=tuple(range(2, x.dim())), keepdim=True)


@converter("LpPool")
def lp_pool(
    x: Tensor,
    *,
    kernel_shape: tuple[int, ...],
    auto_pad: AutoPad = "NOTSET",
    ceil_mode: int = 0,
    dilations: tuple[int, ...] = (),
    p: int = 2,
    pads: tuple[int, ...] = (),
    strides: tuple[int, ...] = (),
) -> Tensor:
    """Return the p-norm of every window of x [N, C, *S]."""
    window = make_window(
        x.shape[2:],
        kernel_shape,
        strides=strides,
        dilations=dilations,
        pads=pads,
        auto_pad=auto_pad,
    )
    extra = window.ceil_extra(x.shape[2:]) if ceil_mode else ()
    powers = F.pad(x.abs() ** p, window.flat_pads(extra))
    total = _sum_windows(powers.flatten(0, 1).unsqueeze(1), window)
    norm: Tensor = total.pow(1 / p)
    return norm.reshape(*x.shape[:2], *total.shape[2:])


@converter("GlobalLpPool")
def global_lp_pool(x: Tensor, *, p: int = 2) -> Tensor:
    """Return the p-norm over all spatial axes, kept as axes of size 1."""
    dims = tuple(range(2, x.dim()))
    return torch.linalg.vector_norm(x, p, dim=dims, keepdim=True)  # type: ignore[no-any-return]
