"""Operators that move elements: reshape, slice, pad, join, split, gather, repeat."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from edgeq.teacher.converters import Ints, Scalar, converter, to_ints


@converter("Reshape")
def reshape(x: Tensor, shape: Ints, *, allowzero: int = 0) -> Tensor:
    """Return x in another shape; 0 copies the size of x's axis (unless `allowzero`), -1 is inferred."""
    sizes = [
        x.shape[axis] if size == 0 and not allowzero else size
        for axis, size in enumerate(to_ints(shape))
    ]
    return x.reshape(sizes)


@converter("Flatten")
def flatten(x: Tensor, *, axis: int = 1) -> Tensor:
    """Return x as a matrix: the axes before `axis`, the axes from `axis` on."""
    rows = x.shape[: axis if axis >= 0 else axis + x.dim()].numel()
    return x.reshape(rows, -1) if x.numel() else x.reshape(rows, x.shape[axis:].numel())


@converter("Squeeze")
def squeeze(x: Tensor, axes: Ints | None = None) -> Tensor:
    """Return x without `axes`, or without every axis of size 1."""
    return x.squeeze() if axes is None else x.squeeze(to_ints(axes))


@converter("Unsqueeze")
def unsqueeze(x: Tensor, axes: Ints) -> Tensor:
    """Return x with axes of size 1 at `axes`, which count in the result."""
    where = to_ints(axes)
    rank = x.dim() + len(where)
    for axis in sorted(item % rank for item in where):
        x = x.unsqueeze(axis)
    return x


@converter("Transpose")
def transpose(x: Tensor, *, perm: tuple[int, ...] | None = None) -> Tensor:
    """Return x with its axes in the order `perm`, by default reversed."""
    return x.permute(tuple(reversed(range(x.dim()))) if perm is None else perm)


@converter("Concat")
def concat(*xs: Tensor, axis: int) -> Tensor:
    """Return the inputs joined along `axis`."""
    return torch.cat(xs, axis)


@converter("Split", returns_tuple=True)
def split(
    x: Tensor, split: Ints | None = None, *, axis: int = 0, num_outputs: int
) -> tuple[Tensor, ...]:
    """Return parts of the given sizes along `axis`, or `num_outputs` equal parts, the last one possibly smaller."""
    if split is not None:
        return tuple(torch.split(x, list(to_ints(split)), axis))
    return tuple(torch.split(x, -(-x.shape[axis] // num_outputs), axis))


@converter("Slice")
def slice_axes(
    x: Tensor, starts: Ints, ends: Ints, axes: Ints | None = None, steps: Ints | None = None
) -> Tensor:
    """Return x[start:end:step] on each of `axes`; limits beyond an axis are cut, as in Python."""
    first, last = to_ints(starts), to_ints(ends)
    where = tuple(range(len(first))) if axes is None else to_ints(axes)
    strides = (1,) * len(first) if steps is None else to_ints(steps)
    for axis, low, high, step in zip(where, first, last, strides, strict=True):
        bounds = slice(low, high, step).indices(x.shape[axis])
        if step < 0:
            x = x.index_select(axis, torch.arange(*bounds, device=x.device))
        else:
            x = x[(slice(None),) * (axis % x.dim()) + (slice(*bounds),)]
    return x


@converter("Pad")
def pad(
    x: Tensor,
    pads: Ints,
    constant_value: Scalar | None = None,
    axes: Ints | None = None,
    *,
    value: float = 0.0,
    mode: Literal["constant", "reflect", "edge", "wrap"] = "constant",
) -> Tensor:
    """Return x with elements added (or, for negative `pads`, cut off) before and behind its axes.

    Args:
        x: any shape.
        pads: the counts before each of `axes`, then those behind.
        constant_value: of the new elements in mode "constant", by default 0.
        axes: by default all.
        value: the same before opset 11.
        mode: where the other new elements come from.
    """
    amounts = to_ints(pads)
    where = tuple(range(x.dim())) if axes is None else to_ints(axes)
    before, behind = [0] * x.dim(), [0] * x.dim()
    for axis, low, high in zip(where, amounts, amounts[len(where) :], strict=False):
        before[axis], behind[axis] = low, high
    if mode == "constant":
        flat = [item for pair in zip(before[::-1], behind[::-1], strict=True) for item in pair]
        return F.pad(x, flat, value=value if constant_value is None else float(constant_value))
    for axis, (low, high) in enumerate(zip(before, behind, strict=True)):
        if low or high:
            x = x.index_select(axis, _source_index(x, axis, low, high, mode))
    return x


def _source_index(x: Tensor, axis: int, low: int, high: int, mode: str) -> Tensor:
    size = x.shape[axis]
    index = torch.arange(-low, size + high, device=x.device)
    if mode == "edge":
        return index.clamp(0, size - 1)
    if mode == "wrap":
        return index % size
    period = max(2 * (size - 1), 1)
    index = index % period
    return torch.minimum(index, period - index) if size > 1 else index


@converter("Expand")
def expand(x: Tensor, shape: Ints) -> Tensor:
    """Return x broadcast together with `shape`, in both directions."""
    sizes = torch.broadcast_shapes(x.shape, to_ints(shape))  # type: ignore[no-untyped-call]
    return x.expand(sizes)


@converter("Tile")
def tile(x: Tensor, repeats: Ints) -> Tensor:
    """Return x repeated along every axis."""
    return x.repeat(to_ints(repeats))


@converter("DepthToSpace")
def depth_to_space(x: Tensor, *, blocksize: int, mode: Literal["DCR", "CRD"] = "DCR") -> Tensor:
    """Return x [N, C b b, H, W] as [N, C, H b, W b]; `mode` tells whether the block or C changes first along axis 1."""
    n, depth, height, width = x.shape
    channels = depth // blocksize**2
    if mode == "CRD":
        y = x.reshape(n, channels, blocksize, blocksize, height, width).permute(0, 1, 4, 2, 5, 3)
    else:
        y = x.reshape(n, blocksize, blocksize, channels, height, width).permute(0, 3, 4, 1, 5, 2)
    return y.reshape(n, channels, height * blocksize, width * blocksize)


@converter("SpaceToDepth")
def space_to_depth(x: Tensor, *, blocksize: int, mode: Literal["DCR", "CRD"] = "DCR") -> Tensor:
    """Return x [N, C, H b, W b] as [N, C b b, H, W]; the reverse of `depth_to_space`."""
    n, channels, height, width = x.shape
    rows, columns = height // blocksize, width // blocksize
    y = x.reshape(n, channels, rows, blocksize, columns, blocksize)
    y = y.permute(0, 1, 3, 5, 2, 4) if mode == "CRD" else y.permute(0, 3, 5, 1, 2, 4)
    return y.reshape(n, channels * blocksize**2, rows, columns)
