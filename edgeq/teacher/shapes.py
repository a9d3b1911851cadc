"""Shape arithmetic and element types: it runs on small tensors, so that a dynamic batch stays dynamic."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from edgeq.graph.values import ELEMENTS_MAX
from edgeq.teacher.converters import TORCH_TYPES, ElementType, Scalar, converter, to_ints


@converter("Identity")
def identity(x: Tensor) -> Tensor:
    """Return x itself."""
    return x


@converter("Dropout")
def dropout(
    x: Tensor, ratio: Scalar | None = None, training_mode: Scalar | None = None, *, seed: int = 0
) -> Tensor:
    """Return x: a teacher never drops.

    Raises:
        ValueError: if the file asks for training mode.
    """
    if training_mode is not None and bool(training_mode):
        msg = "Dropout in training mode; export the model in eval mode"
        raise ValueError(msg)
    return x


@converter("Shape")
def shape_of(x: Tensor, *, start: int = 0, end: int | None = None) -> Tensor:
    """Return the sizes of axes start..end, [n] int64, on the device of `x`."""
    return torch.tensor(x.shape[start:end], dtype=torch.int64, device=x.device)


@converter("Size")
def size_of(x: Tensor) -> Tensor:
    """Return the number of elements, int64."""
    return torch.tensor(x.numel(), dtype=torch.int64, device=x.device)


def _require_small(count: int) -> None:
    """Raise unless a tensor that is made of numbers in the file, and of no data, has a sound size."""
    if count > ELEMENTS_MAX:
        msg = f"{count:.3g} elements, more than {ELEMENTS_MAX:.3g}; the file may be damaged"
        raise ValueError(msg)


@converter("ConstantOfShape")
def constant_of_shape(shape: Tensor, *, value: tuple[float, int] = (0.0, 1)) -> Tensor:
    """Return a tensor of `shape` filled with value[0], of the ONNX element type value[1]."""
    number, kind = value
    sizes = to_ints(shape)
    _require_small(math.prod(sizes))
    return torch.full(sizes, number, dtype=TORCH_TYPES[kind], device=shape.device)


@converter("Range")
def count_range(start: Tensor, limit: Tensor, delta: Tensor) -> Tensor:
    """Return start, start + delta, ... below `limit`, in the type of `start`."""
    _require_small(int((limit.item() - start.item()) / delta.item()))
    return torch.arange(
        start.item(), limit.item(), delta.item(), dtype=start.dtype, device=start.device
    )


@converter("Cast")
def cast(x: Tensor, *, to: ElementType, saturate: int = 1) -> Tensor:
    """Return x as another element type; floats are truncated to integers. `saturate` speaks of float8 only."""
    return x.to(TORCH_TYPES[to])


@converter("CastLike")
def cast_like(x: Tensor, like: Tensor, *, saturate: int = 1) -> Tensor:
    """Return x as the element type of `like`."""
    return x.to(like.dtype)


@converter("Where")
def where(condition: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Return a where `condition` holds, else b."""
    return torch.where(condition, a, b)
