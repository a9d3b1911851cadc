"""Which tensors of a Q/DQ model are no longer those of the same name in the float model: a note in its metadata.

Equalization multiplies channels and divides the weights that read them. The outputs stay what they were, the tensors
between do not, and whoever compares two files by names must know.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

import numpy as np
import onnx
from numpy.typing import NDArray

from edgeq.core.serial import digest_of

KEY = "edgeq.rescaled_tensors"


def mark_rescaled(model: onnx.ModelProto, factors: Mapping[str, NDArray[np.float32]]) -> None:
    """Note in `model`, in place, that equalization has multiplied channels; without factors nothing is noted.

    Args:
        model: the written one.
        factors: [C] by tensor name.
    """
    if factors:
        digest = digest_of([[name, factors[name].tolist()] for name in sorted(factors)])
        others = [item for item in model.metadata_props if item.key != KEY]
        del model.metadata_props[:]
        model.metadata_props.extend(others)
        entry = model.metadata_props.add(key=KEY)
        entry.value = json.dumps({"factors": digest, "tensors": sorted(factors)})


def unlike_tensors(a: onnx.ModelProto, b: onnx.ModelProto) -> frozenset[str]:
    """Return the names that stand for differently scaled tensors in the two models.

    A note that cannot be read counts as none: it may be somebody else's.
    """
    notes = [_note(model) for model in (a, b)]
    if notes[0] == notes[1]:
        return frozenset()
    return frozenset().union(*(note[1] for note in notes))


def _note(model: onnx.ModelProto) -> tuple[str, frozenset[str]]:
    text = next((item.value for item in model.metadata_props if item.key == KEY), "{}")
    try:
        note = json.loads(text)
        return str(note.get("factors", "")), frozenset(map(str, note.get("tensors", ())))
    except (ValueError, TypeError, AttributeError, RecursionError):
        return "", frozenset()
