"""Arithmetic, activations, comparisons, and the two matrix products. Broadcasting is numpy's, as in ONNX."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from edgeq.teacher.converters import Scalar, binary, converter, unary

_UNARY: dict[str, Callable[..., Tensor]] = {
    "Abs": torch.abs,
    "Ceil": torch.ceil,
    "Erf": torch.erf,
    "Exp": torch.exp,
    "Floor": torch.floor,
    "HardSwish": F.hardswish,
    "Log": torch.log,
    "Mish": F.mish,
    "Neg": torch.neg,
    "Not": torch.logical_not,
    "Reciprocal": torch.reciprocal,
    "Relu": F.relu,
    "Sigmoid": torch.sigmoid,
    "Softplus": F.softplus,
    "Sqrt": torch.sqrt,
    "Tanh": torch.tanh,
}

_BINARY: dict[str, Callable[..., Tensor]] = {
    "Add": torch.add,
    "And": torch.logical_and,
    "Equal": torch.eq,
    "Greater": torch.gt,
    "GreaterOrEqual": torch.ge,
    "Less": torch.lt,
    "LessOrEqual": torch.le,
    "MatMul": torch.matmul,
    "Mul": torch.mul,
    "Or": torch.logical_or,
    "Sub": torch.sub,
}

for _name, _function in _UNARY.items():
    converter(_name, like=unary)(_function)
for _name, _function in _BINARY.items():
    converter(_name, like=binary)(_function)


@converter("Div")
def div(a: Tensor, b: Tensor) -> Tensor:
    """Return a / b; integers are truncated towards zero."""
    return torch.div(a, b) if a.is_floating_point() else torch.div(a, b, rounding_mode="trunc")


@converter("Mod")
def mod(a: Tensor, b: Tensor, *, fmod: int = 0) -> Tensor:
    """Return the remainder with the sign of `b`, or with `fmod` that of `a`."""
    return torch.fmod(a, b) if fmod else torch.remainder(a, b)


@converter("Pow")
def power(x: Tensor, exponent: Scalar) -> Tensor:
    """Return x ** exponent in the type of `x`."""
    return torch.pow(x, exponent).to(x.dtype)


@converter("Max")
def maximum(*xs: Tensor) -> Tensor:
    """Return the largest of all inputs, element by element."""
    return functools.reduce(torch.maximum, xs)


@converter("Min")
def minimum(*xs: Tensor) -> Tensor:
    """Return the smallest of all inputs, element by element."""
    return functools.reduce(torch.minimum, xs)


@converter("Sum")
def total(*xs: Tensor) -> Tensor:
    """Return the sum of all inputs, element by element."""
    return functools.reduce(torch.add, xs)


@converter("Clip")
def clip(x: Tensor, low: Scalar | None = None, high: Scalar | None = None) -> Tensor:
    """Return x limited to low..high; `high` wins where the two cross."""
    if low is None and high is None:
        return x
    return torch.clamp(x, low, high)  # type: ignore[arg-type]  # torch's stub knows no mixed pair


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


@converter("Gemm")
def gemm(
    a: Tensor,
    b: Tensor,
    c: Tensor | None = None,
    *,
    alpha: float = 1.0,
    beta: float = 1.0,
    transA: int = 0,  # noqa: N803  # the attribute's name in ONNX
    transB: int = 0,  # noqa: N803
) -> Tensor:
    """Return alpha a' b' + beta c, of 2-D `a` and `b`; `c` broadcasts to the product."""
    a = a.t() if transA else a
    if transB and alpha == 1 and (c is None or (beta == 1 and c.dim() == 1 and len(c) == len(b))):
        return F.linear(a, b, c)
    y = torch.matmul(a, b.t() if transB else b)
    y = y if alpha == 1 else y * alpha
    if c is None:
        return y
    return y + (c if beta == 1 else c * beta)
