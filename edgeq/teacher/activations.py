"""Activations with attributes. Those without any are in `elementwise`."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from edgeq.teacher.converters import Scalar, converter


@converter("Clip")
def clip(x: Tensor, min: Scalar | None = None, max: Scalar | None = None) -> Tensor:
    """Return x limited to min..max, which were attributes before opset 11; `max` wins where the two cross."""
    if min is None and max is None:
        return x
    if isinstance(min, Tensor) or isinstance(max, Tensor):
        # With gradients, clamp takes no number beside a tensor.
        low, high = (
            None if bound is None else torch.as_tensor(bound).to(x) for bound in (min, max)
        )
        return torch.clamp(x, low, high)
    return torch.clamp(x, min, max)


@converter("LeakyRelu")
def leaky_relu(x: Tensor, *, alpha: float = 0.01) -> Tensor:
    """Return x where it is positive, else alpha x."""
    return F.leaky_relu(x, alpha)


@converter("PRelu")
def prelu(x: Tensor, slope: Tensor) -> Tensor:
    """Return x where it is not negative, else slope x; `slope` broadcasts to `x`."""
    return torch.where(x < 0, x * slope, x)


@converter("Elu")
def elu(x: Tensor, *, alpha: float = 1.0) -> Tensor:
    """Return x where it is positive, else alpha (exp(x) - 1)."""
    return F.elu(x, alpha)


@converter("HardSigmoid")
def hard_sigmoid(x: Tensor, *, alpha: float = 0.2, beta: float = 0.5) -> Tensor:
    """Return alpha x + beta limited to 0..1."""
    return torch.clamp(x * alpha + beta, 0.0, 1.0)


@converter("Gelu")
def gelu(x: Tensor, *, approximate: Literal["none", "tanh"] = "none") -> Tensor:
    """Return x times the Gaussian distribution function of x."""
    return F.gelu(x, approximate=approximate)


@converter("Selu")
def selu(
    x: Tensor, *, alpha: float = 1.6732632423543772, gamma: float = 1.0507009873554805
) -> Tensor:
    """Return gamma x where x is positive, else gamma alpha (exp(x) - 1)."""
    return gamma * F.elu(x, alpha)


@converter("Celu")
def celu(x: Tensor, *, alpha: float = 1.0) -> Tensor:
    """Return x where it is positive, else alpha (exp(x / alpha) - 1)."""
    return F.celu(x, alpha)


@converter("ThresholdedRelu")
def thresholded_relu(x: Tensor, *, alpha: float = 1.0) -> Tensor:
    """Return x where it is above alpha, else 0."""
    return F.threshold(x, alpha, 0.0)


@converter("Shrink")
def shrink(x: Tensor, *, bias: float = 0.0, lambd: float = 0.5) -> Tensor:
    """Return x drawn towards 0 by `bias` where it is beyond `lambd` on either side, else 0."""
    return torch.where(x < -lambd, x + bias, torch.where(x > lambd, x - bias, torch.zeros_like(x)))


@converter("Swish")
def swish(x: Tensor, *, alpha: float = 1.0) -> Tensor:
    """Return x sigmoid(alpha x)."""
    return x * torch.sigmoid(x if alpha == 1 else alpha * x)
