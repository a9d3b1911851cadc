"""Reads the sample inputs and the expected outputs of a bundle: polygraphy's JSON, without polygraphy.

An array is {"array": base64 of numpy's own file format, "polygraphy_class": "ndarray"}; objects inside are refused.
"""

import base64
import binascii
import io
import json
from pathlib import Path
from typing import Any, Dict, List

import numpy as np

from edgeq.core.errors import InputError

Arrays = Dict[str, Any]  # by name, [batch, ...]


def read_inputs(path: Path) -> List[Arrays]:
    """Return the calls: one {input name: array} each.

    Raises:
        InputError: if the file is not what the host writes.
    """
    calls = _read(path)
    try:
        return [{name: _array(value) for name, value in call.items()} for call in calls]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise _unread(path, error) from error


def read_outputs(path: Path) -> List[Arrays]:
    """Return what the one runner of the file answered to each call: {output name: array}.

    Raises:
        InputError: if the file is not what the host writes.
    """
    data = _read(path)
    try:
        ((_, results),) = data["lst"]
        return [
            {name: _array(value["values"]) for name, value in item["outputs"].items()}
            for item in results
        ]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise _unread(path, error) from error


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise _unread(path, error) from error


def _array(value: Any) -> Any:
    try:
        data = base64.b64decode(value["array"], validate=True)
    except binascii.Error as error:
        raise ValueError(str(error)) from error
    return np.load(io.BytesIO(data), allow_pickle=False)


def _unread(path: Path, error: Exception) -> InputError:
    return InputError(
        f"{path.name} cannot be read: {type(error).__name__} {error}",
        why="it holds the samples in the form that edgeq wrote",
        mend="copy the bundle again",
        path=path,
    )
