"""The user's own network: made by a function of the user's own code, with the weights of a state dict in it.

Entries: `make_module` imports and runs code, `load_weights` compares every name and shape before it copies.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import pkgutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from edgeq.core.errors import InputError, nearest_names
from edgeq.graph.findings import listed
from edgeq.teacher.checkpoint import StateDict

# BatchNorm's counter of training steps; old files do not have it and inference does not read it.
_STEP_COUNTER = "num_batches_tracked"


@contextlib.contextmanager
def current_folder_first() -> Iterator[None]:
    """Let modules of the current folder be imported, as `python -m` does."""
    folder = str(Path.cwd())
    sys.path.insert(0, folder)
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path.remove(folder)


def make_module(reference: str) -> nn.Module:
    """Return what PACKAGE:FACTORY makes.

    Raises:
        InputError: if there is no such package or factory, its code fails, or the result is no module.
    """
    package, _, name = reference.partition(":")
    if not package or not name:
        raise InputError(
            f"'{reference}' is not understood",
            why="a network is named PACKAGE:FACTORY, and FACTORY() makes it",
            mend="pass for instance torchvision.models:resnet18, or net:make for make() in net.py",
        )
    factory = _find(_import(package), package, name)
    try:
        module = factory()
    except Exception as error:  # the user's code may raise anything
        raise InputError(
            f"{reference}() fails: {type(error).__name__}: {error}",
            why="FACTORY is called without arguments",
            mend=f"write a function without arguments that makes the network; this one takes {_signature(factory)}",
        ) from error
    if not isinstance(module, nn.Module):
        raise InputError(
            f"{reference}() gives {type(module).__name__}",
            why="a torch.nn.Module is exported",
            mend="name the function or class that returns the network itself",
        )
    return module


def _find(module: Any, package: str, name: str) -> Any:
    found = module
    for part in name.split("."):
        if not hasattr(found, part):
            public = [item for item in dir(found) if not item.startswith("_")]
            near = nearest_names(part, [i for i in public if callable(getattr(found, i, None))])
            raise InputError(
                f"'{package}' has no '{name}'",
                why="FACTORY is a function or class of the package",
                mend=f"check the name{_offer(near)}",
            )
        found = getattr(found, part)
    return found


def _import(package: str) -> Any:
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{package}.".startswith(f"{error.name}."):
            raise _broken(package, error) from error
        names = [item.name for item in pkgutil.iter_modules()]
        near = nearest_names(package.split(".")[0], names)
        raise InputError(
            f"there is no module '{error.name}'",
            why="PACKAGE is imported from the current folder or from what is installed",
            mend=f"run edgeq in the folder of the code, or install it{_offer(near)}",
        ) from error
    except Exception as error:  # the user's code may raise anything
        raise _broken(package, error) from error


def _offer(names: Sequence[str]) -> str:
    return f"; did you mean {' or '.join(names)}?" if names else ""


def _broken(package: str, error: Exception) -> InputError:
    return InputError(
        f"'{package}' cannot be imported: {type(error).__name__}: {error}",
        why="its own code fails",
        mend=f"make `python -c 'import {package}'` work first",
    )


def _signature(function: Any) -> str:
    try:
        return str(inspect.signature(function))
    except (TypeError, ValueError):  # some callables written in C have none
        return "arguments that cannot be told"


def load_weights(module: nn.Module, state_dict: StateDict, path: Path) -> None:
    """Copy the weights into the module.

    Raises:
        InputError: lists every tensor that one side has and the other has not, or has in another shape.
    """
    own = {name: tuple(value.shape) for name, value in module.state_dict().items()}
    faults = [
        *(f"no '{name}'" for name in own if name not in state_dict and not _is_counter(name)),
        *(f"'{name}' too many" for name in state_dict if name not in own and not _is_counter(name)),
        *(
            f"'{name}' is {list(state_dict[name].shape)} and should be {list(shape)}"
            for name, shape in own.items()
            if name in state_dict and state_dict[name].shape != shape
        ),
    ]
    if faults:
        raise InputError(
            f"the weights are not those of the network: {listed(faults)}",
            why=f"every one of its {len(own)} tensors is needed, and none may be left over",
            mend="check that FACTORY makes the network that was trained: its variant, width and number of classes",
            path=path,
        )
    tensors = {name: torch.from_numpy(np.array(value)) for name, value in state_dict.items()}
    module.load_state_dict(tensors, strict=False)  # all but the counters was compared above


def _is_counter(name: str) -> bool:
    return name.rpartition(".")[2] == _STEP_COUNTER
