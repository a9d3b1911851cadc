"""Arithmetic, comparisons, bits, activations without attributes, and products. Broadcasting is numpy's, as in ONNX."""

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
    "Acos": torch.acos,
    "Acosh": torch.acosh,
    "Asin": torch.asin,
    "Asinh": torch.asinh,
    "Atan": torch.atan,
    "Atanh": torch.atanh,
    "BitwiseNot": torch.bitwise_not,
    "Ceil": torch.ceil,
    "Cos": torch.cos,
    "Cosh": torch.cosh,
    "Erf": torch.erf,
    "Exp": torch.exp,
    "Floor": torch.floor,
    "HardSwish": F.hardswish,
    "IsNaN": torch.isnan,
    "Log": torch.log,
    "Mish": F.mish,
    "Neg": torch.neg,
    "Not": torch.logical_not,
    "Reciprocal": torch.reciprocal,
    "Relu": F.relu,
    "Round": torch.round,
    "Sigmoid": torch.sigmoid,
    "Sign": torch.sign,
    "Sin": torch.sin,
    "Sinh": torch.sinh,
    "Softplus": F.softplus,
    "Softsign": F.softsign,
    "Sqrt": torch.sqrt,
    "Tan": torch.tan,
    "Tanh": torch.tanh,
}

_BINARY: dict[str, Callable[..., Tensor]] = {
    "Add": torch.add,
    "And": torch.logical_and,
    "BitwiseAnd": torch.bitwise_and,
    "BitwiseOr": torch.bitwise_or,
    "BitwiseXor": torch.bitwise_xor,
    "Equal": torch.eq,
    "Greater": torch.gt,
    "GreaterOrEqual": torch.ge,
    "Less": torch.lt,
    "LessOrEqual": torch.le,
    "MatMul": torch.matmul,
    "Mul": torch.mul,
    "Or": torch.logical_or,
    "Sub": torch.sub,
    "Xor": torch.logical_xor,
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


@converter("Mean")
def mean(*xs: Tensor) -> Tensor:
    """Return the mean of all inputs, element by element."""
    return functools.reduce(torch.add, xs) / len(xs)


@converter("BitShift")
def bit_shift(a: Tensor, b: Tensor, *, direction: Literal["LEFT", "RIGHT"]) -> Tensor:
    """Return the integers `a` with their bits moved by `b` places."""
    shift = torch.bitwise_left_shift if direction == "LEFT" else torch.bitwise_right_shift
    return shift(a, b)


@converter("IsInf")
def is_infinite(x: Tensor, *, detect_negative: int = 1, detect_positive: int = 1) -> Tensor:
    """Return where x is an infinity of a sign that is asked for."""
    found = torch.isinf(x)
    found = found if detect_negative else found & (x > 0)
    return found if detect_positive else found & (x < 0)


@converter("Einsum")
def einsum(*xs: Tensor, equation: str) -> Tensor:
    """Return the sum of products that `equation` writes in Einstein's notation."""
    return torch.einsum(equation, *xs)


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
