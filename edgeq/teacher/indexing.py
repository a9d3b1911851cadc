"""Operators that read and write by index: gather, scatter, sort, and tensors that are made of indices."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from edgeq.teacher.converters import TORCH_TYPES, ElementType, Ints, converter, to_ints

Reduction = Literal["none", "add", "mul", "max", "min"]
_TORCH_REDUCTIONS = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}


@converter("Gather")
def gather(x: Tensor, indices: Tensor, *, axis: int = 0) -> Tensor:
    """Return the entries of `axis` at `indices` (any shape; it replaces the axis); negative ones count back."""
    axis = axis % x.dim()
    found = x.index_select(axis, _from_front(indices.reshape(-1), x.shape[axis]))
    return found.reshape(x.shape[:axis] + indices.shape + x.shape[axis + 1 :])


@converter("GatherElements")
def gather_elements(x: Tensor, indices: Tensor, *, axis: int = 0) -> Tensor:
    """Return x's elements whose position along `axis` is in `indices`, in the shape of `indices`."""
    return x.gather(axis, _from_front(indices, x.shape[axis]))


@converter("GatherND")
def gather_nd(x: Tensor, indices: Tensor, *, batch_dims: int = 0) -> Tensor:
    """Return the slices of x at `indices` [*batch, ..., k]: each row addresses k axes behind the batch axes."""
    depth = batch_dims + indices.shape[-1]
    inner = x.shape[depth:]
    batches, rows = x.shape[:batch_dims].numel(), x.shape[batch_dims:depth].numel()
    row = _row_numbers(indices, x.shape[batch_dims:depth]).reshape(batches, -1)
    row = row + torch.arange(batches, device=x.device)[:, None] * rows
    found = x.reshape(batches * rows, *inner).index_select(0, row.reshape(-1))
    return found.reshape(*indices.shape[:-1], *inner)


@converter("Scatter", "ScatterElements")
def scatter_elements(
    x: Tensor, indices: Tensor, updates: Tensor, *, axis: int = 0, reduction: Reduction = "none"
) -> Tensor:
    """Return x with `updates` written (or reduced) into the positions `indices` along `axis`."""
    return _scatter(x, axis, _from_front(indices, x.shape[axis]), updates, reduction)


@converter("ScatterND")
def scatter_nd(
    x: Tensor, indices: Tensor, updates: Tensor, *, reduction: Reduction = "none"
) -> Tensor:
    """Return x with the slices `updates` written (or reduced) at `indices` [..., k]."""
    depth = indices.shape[-1]
    rows, inner = x.shape[:depth].numel(), x.shape[depth:].numel()
    row = _row_numbers(indices, x.shape[:depth]).reshape(-1, 1).expand(-1, inner)
    flat = _scatter(x.reshape(rows, inner), 0, row, updates.reshape(-1, inner), reduction)
    return flat.reshape(x.shape)


def _from_front(indices: Tensor, size: int) -> Tensor:
    indices = indices.long()
    return torch.where(indices < 0, indices + size, indices)


def _row_numbers(indices: Tensor, sizes: tuple[int, ...]) -> Tensor:
    """Return the number of the row that each index tuple [..., k] names in a tensor of k axes of `sizes`."""
    row = torch.zeros(indices.shape[:-1], dtype=torch.int64, device=indices.device)
    for position, size in enumerate(sizes):
        row = row * size + _from_front(indices[..., position], size)
    return row


def _scatter(x: Tensor, axis: int, index: Tensor, updates: Tensor, reduction: Reduction) -> Tensor:
    if reduction == "none":
        return x.scatter(axis, index, updates)
    return x.scatter_reduce(axis, index, updates, _TORCH_REDUCTIONS[reduction])


@converter("GridSample")
def grid_sample(
    x: Tensor,
    grid: Tensor,
    *,
    align_corners: int = 0,
    mode: Literal["linear", "bilinear", "nearest", "cubic", "bicubic"] = "linear",
    padding_mode: Literal["zeros", "border", "reflection"] = "zeros",
) -> Tensor:
    """Return x [N, C, *S] read at the places in `grid` [N, *T, axes], which are -1..1 across x."""
    torch_mode = {"linear": "bilinear", "cubic": "bicubic"}.get(mode, mode)
    return F.grid_sample(x, grid, torch_mode, padding_mode, bool(align_corners))


@converter("TopK", returns_tuple=True)
def top_k(
    x: Tensor,
    k: Ints,
    *,
    axis: int = -1,
    largest: int = 1,
    sorted: int = 1,  # the attribute's name in ONNX; unsorted results may be sorted too
) -> tuple[Tensor, Tensor]:
    """Return the k largest (or smallest) along `axis`, and their indices; the lower index wins among equals."""
    values, indices = torch.sort(x, dim=axis, descending=bool(largest), stable=True)
    (count,) = (k,) if isinstance(k, int) else to_ints(k)
    return values.narrow(axis, 0, count), indices.narrow(axis, 0, count)


@converter("OneHot")
def one_hot(indices: Tensor, depth: Ints, values: Tensor, *, axis: int = -1) -> Tensor:
    """Return `values` [off, on] with a new axis of `depth` at `axis`: on at the index, off elsewhere."""
    (count,) = to_ints(depth)
    rank = indices.dim() + 1
    classes = torch.arange(count, device=indices.device).reshape(
        [-1 if item == axis % rank else 1 for item in range(rank)]
    )
    hot = classes == _from_front(indices, count).unsqueeze(axis)
    return torch.where(hot, values[1], values[0])


@converter("NonZero", static=("x",))
def non_zero(x: Tensor) -> Tensor:
    """Return the indices of the elements that are not zero, [rank, count] int64; of constants only."""
    return torch.nonzero(x).t()


@converter("Compress", static=("condition",))
def compress(x: Tensor, condition: Tensor, *, axis: int | None = None) -> Tensor:
    """Return the entries of `axis` (of the flat x without one) where the constant `condition` holds."""
    kept = torch.nonzero(condition).reshape(-1)
    return x.reshape(-1).index_select(0, kept) if axis is None else x.index_select(axis, kept)


@converter("Trilu")
def trilu(x: Tensor, k: Ints | None = None, *, upper: int = 1) -> Tensor:
    """Return the upper (or lower) triangle of the last two axes, from diagonal `k` on; the rest is 0."""
    (diagonal,) = (0,) if k is None else to_ints(k)
    return x.triu(diagonal) if upper else x.tril(diagonal)


@converter("CumSum")
def cumulative_sum(x: Tensor, axis: Ints, *, exclusive: int = 0, reverse: int = 0) -> Tensor:
    """Return the running sum along `axis`, with `exclusive` without the element itself."""
    (where,) = to_ints(axis)
    y = x.flip(where) if reverse else x
    y = y.cumsum(where, dtype=x.dtype) - (y if exclusive else 0)
    return y.flip(where) if reverse else y


@converter("EyeLike")
def eye_like(x: Tensor, *, dtype: ElementType | None = None, k: int = 0) -> Tensor:
    """Return ones on diagonal `k` and zeros elsewhere, in the shape of the matrix `x`."""
    rows = torch.arange(x.shape[0], device=x.device)[:, None]
    columns = torch.arange(x.shape[1], device=x.device)
    return (columns - rows == k).to(x.dtype if dtype is None else TORCH_TYPES[dtype])
