"""Sliding windows: the padding that ONNX's auto_pad, pads and ceil_mode ask for, axis by axis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgeq.teacher.converters import AutoPad


@dataclass(frozen=True, slots=True)
class Window:
    """How a kernel slides, one entry a spatial axis. `begin` and `end` are the padding before and behind."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    begin: tuple[int, ...]
    end: tuple[int, ...]

    @property
    def is_symmetric(self) -> bool:
        """Return true if every axis has as much padding behind as before."""
        return self.begin == self.end

    def flat_pads(self, extra: Sequence[int] = ()) -> list[int]:
        """Return the padding as `F.pad` takes it: last axis first; `extra` is added behind."""
        more = extra or [0] * len(self.end)
        behind = [end + add for end, add in zip(self.end, more, strict=True)]
        return [
            pad for pair in zip(reversed(self.begin), reversed(behind), strict=True) for pad in pair
        ]

    def ceil_extra(self, sizes: Sequence[int]) -> list[int]:
        """Return the padding behind that lets a last, partial window fit (ceil_mode).

        A window that would begin in the padding behind is left out, as in the ONNX standard and in torch.
        """
        extra = []
        for axis, size in enumerate(sizes):
            span = (self.kernel[axis] - 1) * self.dilations[axis] + 1
            padded, stride = size + self.begin[axis] + self.end[axis], self.strides[axis]
            steps = -(-(padded - span) // stride)
            if steps * stride >= size + self.begin[axis]:
                steps -= 1
            extra.append(max(steps * stride + span - padded, 0))
        return extra


def make_window(
    sizes: Sequence[int],
    kernel: Sequence[int],
    *,
    strides: Sequence[int],
    dilations: Sequence[int],
    pads: Sequence[int],
    auto_pad: AutoPad,
) -> Window:
    """Return the window over an input of spatial `sizes`; empty sequences stand for the ONNX defaults.

    Source: ONNX Conv, `auto_pad`: SAME_UPPER and SAME_LOWER give ceil(size / stride) outputs; an odd rest of the
    padding goes behind (UPPER) or before (LOWER).
    """
    ndim = len(kernel)
    strides = tuple(strides) or (1,) * ndim
    dilations = tuple(dilations) or (1,) * ndim
    pads = tuple(pads) or (0,) * (2 * ndim)
    begin, end = tuple(pads[:ndim]), tuple(pads[ndim:])
    if auto_pad == "VALID":
        begin = end = (0,) * ndim
    elif auto_pad != "NOTSET":
        total = [
            max((-(-size // stride) - 1) * stride + (length - 1) * dilation + 1 - size, 0)
            for size, length, stride, dilation in zip(
                sizes, kernel, strides, dilations, strict=True
            )
        ]
        half = tuple(item // 2 for item in total)
        rest = tuple(item - item // 2 for item in total)
        begin, end = (half, rest) if auto_pad == "SAME_UPPER" else (rest, half)
    return Window(tuple(kernel), strides, dilations, begin, end)
