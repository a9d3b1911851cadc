"""A device that no machine has: its tensors compute on the CPU, and no operator takes them beside tensors of the CPU.

CUDA refuses such mixtures too. A loop that runs here makes no tensor in the wrong place, whatever it computes; what it
computes is that of the CPU. What CUDA allows and this device does not: numbers of the CPU (tensors of no axis) among
its operands. Torch's own "meta" lends its name, because an undefined device has none.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

DEVICE = torch.device("meta")
CPU = torch.device("cpu")
_ATEN = torch.ops.aten

# Operators that CUDA lets read the CPU: copies from one device to the other, and indices.
BETWEEN_DEVICES = {
    _ATEN.copy_.default,
    _ATEN._to_copy.default,
    _ATEN.index.Tensor,
    _ATEN._index_put_impl_.default,
    _ATEN.index_put_.default,
    _ATEN.index_put.default,
}


class Placed(Tensor):
    """A tensor on the device; `inner` holds its values."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> Placed:
        made = Tensor._make_wrapper_subclass(
            cls,
            inner.shape,
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=DEVICE,
        )
        made.inner = inner
        return made

    def tolist(self) -> Any:
        return self.inner.tolist()

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return compute(func, args, kwargs or {})


class _Moves(TorchDispatchMode):
    """Lets operators without operands on the device make some there."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if Placed not in types and kwargs.get("device") is None:
            return func(*args, **kwargs)
        return compute(func, args, kwargs)


class _Makes(TorchFunctionMode):
    """Lets `torch.tensor`, which is no operator, make a tensor on the device."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.tensor and kwargs.get("device") == DEVICE:
            return func(*args, **{**kwargs, "device": CPU}).to(DEVICE)
        return func(*args, **kwargs)


@contextmanager
def fake_device() -> Iterator[torch.device]:
    """Yield the device; inside the block tensors can be made on it and moved to it."""
    with _Moves(), _Makes():
        yield DEVICE


def compute(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Return what `func` gives, on the device where its operands, or its keyword, say so."""
    tensors = [item for item in tree_flatten((args, kwargs))[0] if isinstance(item, Tensor)]
    placed = [item for item in tensors if isinstance(item, Placed)]
    if placed and len(placed) < len(tensors) and func not in BETWEEN_DEVICES:
        shapes = [(type(item).__name__, tuple(item.shape)) for item in tensors]
        msg = f"{func} mixes devices: {shapes}"
        raise RuntimeError(msg)
    wanted = kwargs.get("device")
    on_device = isinstance(tensors[0], Placed) if tensors else False
    if wanted is not None:
        on_device = torch.device(wanted) == DEVICE
        kwargs = {**kwargs, "device": CPU}
    if on_device and kwargs.get("generator") is not None:
        msg = f"{func} draws on the device from a generator of the CPU"
        raise RuntimeError(msg)
    outer = {id(item.inner): item for item in placed}
    found = func(*tree_map(_inner, args), **tree_map(_inner, kwargs))

    def wrap(item: Any) -> Any:
        if not isinstance(item, Tensor):
            return item
        if id(item) in outer:  # changed in place
            return outer[id(item)]
        return Placed(item) if on_device else item

    return tree_map(wrap, found)


def _inner(item: Any) -> Any:
    return item.inner if isinstance(item, Placed) else item
