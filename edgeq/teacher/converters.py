"""The table of converters: ONNX operator to the torch function that computes it.

A converter takes the inputs of the ONNX node in their order (None for an absent optional one) and the attributes as
keywords. Its signature is the whole declaration: the parameters are the inputs and attributes that edgeq knows, their
defaults are those of the ONNX standard, and a `Literal` lists the values that are supported. Two keywords are filled
by the importer where a converter asks for them: `opset` and `num_outputs`.
"""

from __future__ import annotations

import dataclasses
import inspect
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor

from edgeq.core.registry import Registry

# Inputs that give sizes, axes or limits. A constant one is written into the call as a Python value, so that the loop
# neither reads a tensor back from the device nor waits for it.
Ints = tuple[int, ...] | Tensor
Floats = tuple[float, ...] | Tensor
Scalar = float | Tensor

AutoPad = Literal["NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID"]

# What torch raises when a node's values, types or shapes do not fit.
CONVERSION_FAULTS = (ArithmeticError, IndexError, RuntimeError, TypeError, ValueError)

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Converter:
    """One operator's function and what its signature says.

    Attributes:
        function: what the fx node calls.
        returns_tuple: true where every output of the ONNX node is an item of the returned tuple.
        positional: names of the inputs, in order; the last one repeats if `variadic`.
        required: number of inputs that must be there.
        keywords: every name that may be given as an attribute, to its type.
        static: names of the inputs that must be constant, because the shape of the result depends on their values.
    """

    function: Callable[..., Any]
    returns_tuple: bool
    positional: tuple[str, ...]
    required: int
    variadic: bool
    keywords: Mapping[str, Any] = field(hash=False)
    static: tuple[str, ...] = ()

    def hint(self, index: int) -> Any:
        """Return the annotated type of input `index`."""
        return self.keywords[self.positional[min(index, len(self.positional) - 1)]]


CONVERTERS: Registry[Converter] = Registry("operator")


def converter(
    *op_types: str,
    returns_tuple: bool = False,
    static: tuple[str, ...] = (),
    like: Callable[..., Any] | None = None,
) -> Callable[[F], F]:
    """Return a decorator that files a function as the converter of `op_types`.

    Args:
        op_types: names of the default ONNX domain.
        returns_tuple: as in `Converter`.
        static: as in `Converter`.
        like: whose signature holds, for torch's built-in functions, which have none.
    """

    def add(function: F) -> F:
        CONVERTERS.register(*op_types)(
            dataclasses.replace(
                _describe(function, like or function), returns_tuple=returns_tuple, static=static
            )
        )
        return function

    return add


def _describe(function: Callable[..., Any], declared: Callable[..., Any]) -> Converter:
    parameters = inspect.signature(declared).parameters.values()
    inputs = [item for item in parameters if item.kind is not item.KEYWORD_ONLY]
    variadic = any(item.kind is item.VAR_POSITIONAL for item in inputs)
    hints = typing.get_type_hints(declared)
    return Converter(
        function=function,
        returns_tuple=False,
        positional=tuple(item.name for item in inputs),
        required=sum(item.default is item.empty for item in inputs),
        variadic=variadic,
        keywords={item.name: hints[item.name] for item in parameters},
    )


def accepts(hint: Any, kind: Any) -> bool:
    """Return true if the annotated type `hint` has `kind` among its members."""
    return kind == hint or kind in typing.get_args(hint)


def to_ints(value: Ints) -> tuple[int, ...]:
    """Return the integers of a shape-like input, [n] or a scalar."""
    if isinstance(value, Tensor):
        return tuple(int(item) for item in value.reshape(-1).tolist())
    return tuple(value)


def to_floats(value: Floats) -> tuple[float, ...]:
    """Return the numbers of a list-like input, [n]."""
    if isinstance(value, Tensor):
        return tuple(float(item) for item in value.reshape(-1).tolist())
    return tuple(value)


def unary(x: Tensor) -> Tensor:
    """Stand for the signature of a function of one tensor."""
    raise NotImplementedError


def binary(a: Tensor, b: Tensor) -> Tensor:
    """Stand for the signature of a function of two tensors that broadcast as in numpy."""
    raise NotImplementedError


TORCH_TYPES: dict[int, torch.dtype] = {
    1: torch.float32,
    2: torch.uint8,
    3: torch.int8,
    5: torch.int16,
    6: torch.int32,
    7: torch.int64,
    9: torch.bool,
    10: torch.float16,
    11: torch.float64,
    16: torch.bfloat16,
}
ElementType = Literal[1, 2, 3, 5, 6, 7, 9, 10, 11, 16]
