"""Normalisations: with running statistics, over layers, groups, instances and neighbours; and the softmax family."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from edgeq.teacher.converters import converter

# What MeanVarianceNormalization adds to the deviation; fixed by the standard.
_MVN_EPSILON = 1e-9


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
    if scale.requires_grad or bias.requires_grad:
        return F.batch_norm(x, mean, var, scale, bias, training=False, eps=epsilon)
    apply: Callable[..., Tensor] = _Affine.apply
    return apply(x, scale, bias, mean, var, epsilon)


class _Affine(torch.autograd.Function):
    """BatchNormalization of constant parameters: dy / dx is the constant scale / sqrt(var + epsilon) of the channel.

    The values are torch's own; its backward pass also computes gradients that nobody asked for.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, var: Tensor, epsilon: float
    ) -> Tensor:
        ctx.save_for_backward(scale, var)
        ctx.epsilon = epsilon
        return F.batch_norm(x, mean, var, scale, bias, training=False, eps=epsilon)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None, None, None]:
        (grad,) = grads
        scale, var = ctx.saved_tensors
        slope = scale * (var + ctx.epsilon).rsqrt()
        shaped = slope.view(-1, *[1] * (grad.ndim - 2)).to(grad.dtype)
        return grad * shaped, None, None, None, None, None


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


@converter("Hardmax")
def hardmax(x: Tensor, *, axis: int | None = None, opset: int) -> Tensor:
    """Return 1 at the first maximum along one axis, or before opset 13 along all axes from `axis` on, else 0."""
    if opset < 13:
        return hardmax(_coerce_2d(x, axis), axis=-1, opset=13).reshape(x.shape)
    where = -1 if axis is None else axis
    return torch.zeros_like(x).scatter(where, x.argmax(where, keepdim=True), 1)


def _coerce_2d(x: Tensor, axis: int | None) -> Tensor:
    start = (1 if axis is None else axis) % x.dim()
    return x.reshape(x.shape[:start].numel(), -1)


@converter("InstanceNormalization")
def instance_normalization(
    x: Tensor, scale: Tensor, bias: Tensor, *, epsilon: float = 1e-5
) -> Tensor:
    """Return x [N, C, *S] normalised over the spatial axes of every sample and channel."""
    # torch's own instance_norm refuses one spatial element; torch.group_norm computes the same without that check.
    return torch.group_norm(x, x.shape[1], scale, bias, epsilon)


@converter("GroupNormalization")
def group_normalization(
    x: Tensor,
    scale: Tensor,
    bias: Tensor,
    *,
    num_groups: int,
    epsilon: float = 1e-5,
    stash_type: Literal[1] = 1,
    opset: int,
) -> Tensor:
    """Return x [N, C, *S] normalised over groups of channels; before opset 21 scale and bias are [groups]."""
    if opset < 21:
        scale = scale.repeat_interleave(x.shape[1] // num_groups)
        bias = bias.repeat_interleave(x.shape[1] // num_groups)
    return torch.group_norm(x, num_groups, scale, bias, epsilon)


@converter("RMSNormalization")
def rms_normalization(
    x: Tensor,
    scale: Tensor,
    *,
    axis: int = -1,
    epsilon: float = 1e-5,
    stash_type: Literal[1] = 1,
) -> Tensor:
    """Return x divided by its root mean square over the axes from `axis` on, times `scale`."""
    return F.rms_norm(x, x.shape[axis:], eps=epsilon) * scale


@converter("LRN")
def local_response_normalization(
    x: Tensor, *, size: int, alpha: float = 1e-4, beta: float = 0.75, bias: float = 1.0
) -> Tensor:
    """Return x [N, C, *S] divided by a power of the mean square of `size` neighbouring channels.

    Of an even size the odd channel lies behind, in torch's own function before.
    """
    before = (size - 1) // 2
    squares = (x * x).flatten(2).unsqueeze(1)
    squares = F.pad(squares, (0, 0, before, size - 1 - before))
    means = F.avg_pool2d(squares, (size, 1), stride=1).reshape(x.shape)
    return x / (bias + alpha * means) ** beta


@converter("MeanVarianceNormalization")
def mean_variance_normalization(x: Tensor, *, axes: tuple[int, ...] = (0, 2, 3)) -> Tensor:
    """Return x with mean 0 and deviation 1 over `axes`."""
    centred = x - x.mean(axes, keepdim=True)
    return centred / ((centred * centred).mean(axes, keepdim=True).sqrt() + _MVN_EPSILON)


@converter("LpNormalization")
def lp_normalization(x: Tensor, *, axis: int = -1, p: Literal[1, 2] = 2) -> Tensor:
    """Return x divided by its p-norm along `axis`; zeros stay zeros."""
    norm = torch.linalg.vector_norm(x, p, dim=axis, keepdim=True)
    return x / torch.where(norm == 0, 1, norm)
