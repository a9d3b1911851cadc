"""Reductions over axes, which are an attribute in older opsets and an input in newer ones."""

from __future__ import annotations

import torch
from torch import Tensor

from edgeq.teacher.converters import Ints, converter, to_ints


def _axes(x: Tensor, axes: Ints | None, noop: int) -> tuple[int, ...]:
    """Return the axes to reduce: all where none are given, unless `noop` asks for none then."""
    given = () if axes is None else to_ints(axes)
    return given or (() if noop else tuple(range(x.dim())))


@converter("ReduceMean")
def reduce_mean(
    x: Tensor, axes: Ints | None = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0
) -> Tensor:
    """Return the mean over `axes`."""
    dims = _axes(x, axes, noop_with_empty_axes)
    return x.mean(dims, keepdim=bool(keepdims)) if dims else x


@converter("ReduceSum")
def reduce_sum(
    x: Tensor, axes: Ints | None = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0
) -> Tensor:
    """Return the sum over `axes`."""
    dims = _axes(x, axes, noop_with_empty_axes)
    return x.sum(dims, keepdim=bool(keepdims), dtype=x.dtype) if dims else x


@converter("ReduceMax")
def reduce_max(
    x: Tensor, axes: Ints | None = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0
) -> Tensor:
    """Return the maximum over `axes`."""
    dims = _axes(x, axes, noop_with_empty_axes)
    return x.amax(dims, keepdim=bool(keepdims)) if dims else x


@converter("ReduceMin")
def reduce_min(
    x: Tensor, axes: Ints | None = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0
) -> Tensor:
    """Return the minimum over `axes`."""
    dims = _axes(x, axes, noop_with_empty_axes)
    return x.amin(dims, keepdim=bool(keepdims)) if dims else x


@converter("ReduceProd")
def reduce_prod(
    x: Tensor, axes: Ints | None = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0
) -> Tensor:
    """Return the product over `axes`."""
    dims = _axes(x, axes, noop_with_empty_axes)
    for axis in sorted((item % x.dim() for item in dims), reverse=True):
        x = x.prod(axis, keepdim=bool(keepdims), dtype=x.dtype)
    return x


@converter("ReduceL2")
def reduce_l2(
    x: Tensor, axes: Ints | None = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0
) -> Tensor:
    """Return the Euclidean norm over `axes`; with no axis at all, that of every element alone."""
    dims = _axes(x, axes, noop_with_empty_axes)
    return torch.linalg.vector_norm(x, dim=dims, keepdim=bool(keepdims)) if dims else x.abs()


@converter("ReduceL1")
def reduce_l1(
    x: Tensor, axes: Ints | None = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0
) -> Tensor:
    """Return the sum of absolute values over `axes`."""
    dims = _axes(x, axes, noop_with_empty_axes)
    return x.abs().sum(dims, keepdim=bool(keepdims), dtype=x.dtype) if dims else x.abs()


@converter("ReduceSumSquare")
def reduce_sum_square(
    x: Tensor, axes: Ints | None = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0
) -> Tensor:
    """Return the sum of squares over `axes`."""
    dims = _axes(x, axes, noop_with_empty_axes)
    return (x * x).sum(dims, keepdim=bool(keepdims), dtype=x.dtype) if dims else x * x


@converter("ReduceLogSum")
def reduce_log_sum(
    x: Tensor, axes: Ints | None = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0
) -> Tensor:
    """Return the logarithm of the sum over `axes`."""
    return reduce_sum(x, axes, keepdims=keepdims, noop_with_empty_axes=noop_with_empty_axes).log()


@converter("ReduceLogSumExp")
def reduce_log_sum_exp(
    x: Tensor, axes: Ints | None = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0
) -> Tensor:
    """Return the logarithm of the sum of exponentials over `axes`."""
    dims = _axes(x, axes, noop_with_empty_axes)
    return x.logsumexp(dims, keepdim=bool(keepdims)) if dims else x


@converter("ArgMin")
def arg_min(x: Tensor, *, axis: int = 0, keepdims: int = 1, select_last_index: int = 0) -> Tensor:
    """Return the index of the minimum along `axis`, int64; the first of equals, or the last."""
    return arg_max(-x, axis=axis, keepdims=keepdims, select_last_index=select_last_index)


@converter("ArgMax")
def arg_max(x: Tensor, *, axis: int = 0, keepdims: int = 1, select_last_index: int = 0) -> Tensor:
    """Return the index of the maximum along `axis`, int64; the first of equals, or the last."""
    if select_last_index:
        return x.shape[axis] - 1 - x.flip(axis).argmax(axis, keepdim=bool(keepdims))
    return x.argmax(axis, keepdim=bool(keepdims))
