"""A PyTorch state dict from disk as numpy arrays, without pickle's powers: nothing in the file is ever run.

Entry: `load_state_dict`. What a checkpoint wraps around its tensors (epoch, optimizer, a `module.` before every name)
is taken off; anything that is no state dict is refused with the line that saves one.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from edgeq.core.errors import InputError

StateDict = dict[str, NDArray[Any]]

# Where training code keeps the tensors inside a checkpoint, in the order of preference.
_NESTS = ("state_dict", "model_state_dict", "model", "net", "network", "params", "weights")
# What torch's wrappers write before every name: DataParallel and AveragedModel, torch.compile.
_PREFIXES = ("module.", "_orig_mod.")
# AveragedModel's own counter: the one name without a prefix.
_COUNTER = "n_averaged"
# Element types that numpy does not have.
_WIDENED = {torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2}


def load_state_dict(path: Path) -> StateDict:
    """Return the tensors of a .safetensors file or of a checkpoint that torch saved, by name.

    bfloat16 and float8 become float32; other element types stay. Entries that are no tensors are left out.

    Raises:
        InputError: if there is no such file, or it holds anything but a state dict.
    """
    if not path.is_file():
        raise InputError(
            "there is no such file of weights",
            why="a state dict is read from a .safetensors, .pth or .pt file",
            mend="check the path",
            path=path,
        )
    content = _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
    tensors = _unwrap(_find_tensors(content, path))
    return {name: _to_array(name, tensor, path) for name, tensor in tensors.items()}


def _read_safetensors(path: Path) -> Any:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise _unread(path, error) from error


def _read_torch(path: Path) -> Any:
    try:
        with warnings.catch_warnings():  # they advise to load with other functions, which run code
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch's reader of damaged bytes raises whatever it stumbles over
        raise _unread(path, error) from error


def _unread(path: Path, error: Exception) -> InputError:
    # torch tells before or behind the fault how to load the file all the same, which runs what is in it.
    fault = str(error).rpartition("WeightsUnpickler error:")[2].strip().split("\n")[0]
    fault = re.split(r"\. (?:Please use|In PyTorch)", fault)[0]
    first = f"{type(error).__name__}: {fault}" if fault else type(error).__name__
    return InputError(
        f"the weights cannot be read: {first[:300]}",
        why="edgeq reads tensors only: a whole module, or another object, in a pickle could run code when loaded",
        mend="where the model's code is at hand, save its state dict: torch.save(model.state_dict(), 'weights.pth')",
        path=path,
    )


def _find_tensors(content: Any, path: Path) -> Mapping[str, torch.Tensor]:
    """Return the mapping that holds the tensors: the content itself or, under a usual name, a part of it.

    Raises:
        InputError: if there is none.
    """
    for mapping in _candidates(content):
        tensors = {
            name: value
            for name, value in mapping.items()
            if isinstance(name, str) and isinstance(value, torch.Tensor)
        }
        if tensors:
            return tensors
    keys = [str(key) for key in content] if isinstance(content, Mapping) else []
    raise InputError(
        f"a {type(content).__name__} without tensors{f', with the keys {keys[:8]}' if keys else ''}",
        why=f"a state dict maps names to tensors, alone or under one of the keys {', '.join(_NESTS)}",
        mend="save the state dict: torch.save(model.state_dict(), 'weights.pth')",
        path=path,
    )


def _candidates(content: Any) -> Iterator[Mapping[Any, Any]]:
    """Yield the content, then what lies under the usual names, one inside another."""
    if isinstance(content, Mapping):
        yield content
        for key in _NESTS:
            yield from _candidates(content.get(key))


def _unwrap(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the tensors without the prefixes that every name has."""
    named = dict(tensors)
    while prefix := next((p for p in _PREFIXES if _all_start(named, p)), None):
        named.pop(_COUNTER, None)
        named = {name.removeprefix(prefix): tensor for name, tensor in named.items()}
    return named


def _all_start(names: Mapping[str, Any], prefix: str) -> bool:
    rest = [name for name in names if name != _COUNTER]
    return bool(rest) and all(name.startswith(prefix) for name in rest)


def _to_array(name: str, tensor: torch.Tensor, path: Path) -> NDArray[Any]:
    stored = tensor.untyped_storage().nbytes() if tensor.layout is torch.strided else 0
    if tensor.layout is torch.strided and tensor.numel() * tensor.element_size() > stored:
        raise InputError(
            f"tensor '{name}' {list(tensor.shape)} repeats the {stored} bytes that are stored",
            why="weights are stored value by value; a file of some bytes could fill the memory otherwise",
            mend="save the state dict of the network as it was trained",
            path=path,
        )
    try:
        plain = tensor.detach().float() if tensor.dtype in _WIDENED else tensor.detach()
        return np.asarray(plain.numpy())
    except (TypeError, RuntimeError) as error:
        raise InputError(
            f"tensor '{name}' is {tensor.layout}, {tensor.dtype}: {str(error).splitlines()[0]}",
            why="weights are read as dense arrays of plain numbers",
            mend="save the float model's state dict, before it was quantized or made sparse",
            path=path,
        ) from error
