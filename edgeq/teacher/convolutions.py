"""Conv and ConvTranspose in one, two and three spatial dimensions. Symmetric padding goes to torch as it is."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from edgeq.teacher.converters import AutoPad, converter
from edgeq.teacher.windows import make_window

_CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_CONV_TRANSPOSE = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


@converter("Conv")
def conv(
    x: Tensor,
    w: Tensor,
    b: Tensor | None = None,
    *,
    auto_pad: AutoPad = "NOTSET",
    dilations: tuple[int, ...] = (),
    group: int = 1,
    kernel_shape: tuple[int, ...] = (),
    pads: tuple[int, ...] = (),
    strides: tuple[int, ...] = (),
) -> Tensor:
    """Return the convolution of x [N, C, *S] with w [K, C/G, *kernel] and bias b [K]."""
    window = make_window(
        x.shape[2:],
        kernel_shape or w.shape[2:],
        strides=strides,
        dilations=dilations,
        pads=pads,
        auto_pad=auto_pad,
    )
    padding = window.begin
    if not window.is_symmetric:
        x, padding = F.pad(x, window.flat_pads()), (0,) * len(window.begin)
    function = _CONV[x.dim() - 2]
    return function(x, w, b, window.strides, padding, window.dilations, group)


@converter("ConvTranspose")
def conv_transpose(
    x: Tensor,
    w: Tensor,
    b: Tensor | None = None,
    *,
    auto_pad: AutoPad = "NOTSET",
    dilations: tuple[int, ...] = (),
    group: int = 1,
    kernel_shape: tuple[int, ...] = (),
    output_padding: tuple[int, ...] = (),
    output_shape: tuple[int, ...] = (),
    pads: tuple[int, ...] = (),
    strides: tuple[int, ...] = (),
) -> Tensor:
    """Return the transposed convolution of x [N, C, *S] with w [C, K/G, *kernel] and bias b [K].

    The full result is cropped (or grown, where the wanted shape is larger) unless the padding is symmetric.
    Source: ONNX ConvTranspose, the equations of `output_shape` and `auto_pad`.
    """
    ndim = x.dim() - 2
    strides = strides or (1,) * ndim
    dilations = dilations or (1,) * ndim
    extra = output_padding or (0,) * ndim
    pads = pads or (0,) * (2 * ndim)
    begin, end = pads[:ndim], pads[ndim:]
    if not output_shape and auto_pad in {"SAME_UPPER", "SAME_LOWER"}:
        output_shape = tuple(
            size * stride for size, stride in zip(x.shape[2:], strides, strict=True)
        )
    function = _CONV_TRANSPOSE[ndim]
    if not output_shape and auto_pad == "NOTSET" and begin == end:
        return function(x, w, b, strides, begin, extra, group, dilations)
    full = function(x, w, None, strides, 0, extra, group, dilations)
    if output_shape:
        total = [
            size - want for size, want in zip(full.shape[2:], output_shape[-ndim:], strict=True)
        ]
        half = tuple(item // 2 for item in total)
        rest = tuple(item - item // 2 for item in total)
        begin, end = (half, rest) if auto_pad == "SAME_UPPER" else (rest, half)
    crops = [-pad for pair in zip(reversed(begin), reversed(end), strict=True) for pad in pair]
    y = F.pad(full, crops)
    return y if b is None else y + b.reshape(-1, *(1,) * ndim)
