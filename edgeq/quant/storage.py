"""Trained values on disk: safetensors, so that nothing is executed when they are read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from edgeq.core.errors import InputError
from edgeq.core.files import write_bytes
from edgeq.core.quantized import QuantizedValues

_GROUPS = ("scales", "codes", "floats", "channel_factors")


def save_values(values: QuantizedValues, path: Path) -> None:
    """Write scales, codes, biases and channel factors; keys are "group/tensor name", in the same order every time."""
    arrays: dict[str, NDArray[np.generic]] = {}
    for group in _GROUPS:
        for name, array in sorted(getattr(values, group).items()):
            arrays[f"{group}/{name}"] = np.ascontiguousarray(array).reshape(array.shape)
    write_bytes(path, save(arrays))


def load_values(path: Path) -> QuantizedValues:
    """Return what `save_values` wrote.

    Raises:
        InputError: if the file cannot be read.
    """
    try:
        arrays = load_file(path)
    except (OSError, SafetensorError) as error:
        raise _unreadable(path, str(error)) from error
    groups: dict[str, dict[str, NDArray[np.generic]]] = {group: {} for group in _GROUPS}
    for key, array in arrays.items():
        group, _, name = key.partition("/")
        if group not in groups:
            raise _unreadable(path, f"it has the unknown entry '{key}'")
        groups[group][name] = array
    return QuantizedValues(**groups)  # type: ignore[arg-type]


def _unreadable(path: Path, what: str) -> InputError:
    return InputError(
        f"the trained values cannot be read: {what}",
        why="the file is missing or was changed",
        mend="run the build again; this stage is then repeated",
        path=path,
    )
