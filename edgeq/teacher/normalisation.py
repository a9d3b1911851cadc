"""BatchNormalization with its running statistics, LayerNormalization, and the softmax family."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from edgeq.teacher.converters import converter


@converter("BatchNormalization")
def batch_normalization(
    x: Tensor,
    scale: Tensor,
    bias: Tensor,
    mean: Tensor,
    var: Tensor,
    *,
    epsilon: float = 1e-5,
    momentum: float = 0.9,
    training_mode: Literal[0] = 0,
) -> Tensor:
    """Return x [N, C, *S] normalised with the running statistics; `momentum` matters only in training mode."""
    return F.batch_norm(x, mean, var, scale, bias, training=False, eps=epsilon)


@converter("LayerNormalization")
def layer_normalization(
    x: Tensor,
    scale: Tensor,
    bias: Tensor | None = None,
    *,
    axis: int = -1,
    epsilon: float = 1e-5,
    stash_type: Literal[1] = 1,
) -> Tensor:
    """Return x normalised over the axes from `axis` on; `scale` and `bias` broadcast to `x`."""
    y = F.layer_norm(x, x.shape[axis:], eps=epsilon) * scale
    return y if bias is None else y + bias


@converter("Softmax")
def softmax(x: Tensor, *, axis: int | None = None, opset: int) -> Tensor:
    """Return the softmax over one axis, or before opset 13 over all axes from `axis` on."""
    if opset >= 13:
        return torch.softmax(x, -1 if axis is None else axis)
    return torch.softmax(_coerce_2d(x, axis), -1).reshape(x.shape)


@converter("LogSoftmax")
def log_softmax(x: Tensor, *, axis: int | None = None, opset: int) -> Tensor:
    """Return the logarithm of `softmax`."""
    if opset >= 13:
        return torch.log_softmax(x, -1 if axis is None else axis)
    return torch.log_softmax(_coerce_2d(x, axis), -1).reshape(x.shape)


def _coerce_2d(x: Tensor, axis: int | None) -> Tensor:
    start = (1 if axis is None else axis) % x.dim()
    return x.reshape(x.shape[:start].numel(), -1)
