"""States of long loops on disk, so that a killed run goes on from the last one and ends with the same bytes.

Safetensors, so that nothing is executed when they are read, with a digest, so that no damage is taken for a state.
Entry: `Checkpoints`.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeq.core.errors import InputError
from edgeq.core.files import write_bytes

_LOG = logging.getLogger(__name__)

# The folder of a build's checkpoints, in its own.
FOLDER = "checkpoints"
# Between two checkpoints of a loop; what is lost at most.
EVERY_S = 180.0


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A state of a loop: arrays, and plain JSON values beside them."""

    arrays: dict[str, NDArray[Any]]
    notes: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of_parts(
        cls, parts: Mapping[str, Mapping[str, NDArray[Any]]], notes: dict[str, Any]
    ) -> Checkpoint:
        """Return the state of several things, each by a name of its own."""
        arrays = {f"{part}/{name}": x for part, own in parts.items() for name, x in own.items()}
        return cls(arrays, notes)

    def part(self, name: str) -> dict[str, NDArray[Any]]:
        """Return the arrays of one of them."""
        begin = f"{name}/"
        found = {key: x for key, x in self.arrays.items() if key.startswith(begin)}
        return {key.removeprefix(begin): x for key, x in found.items()}


class Checkpoints:
    """The checkpoints of one stage of a build; without a folder nothing is kept, and nothing found."""

    def __init__(self, folder: Path | None = None, key: str = "") -> None:
        """Keep nothing yet.

        Args:
            folder: is made when the first checkpoint is written.
            key: of all that the state follows from. Checkpoints with another key are not read.
        """
        self._folder = folder
        self._key = key
        self._last = time.monotonic()

    def is_due(self) -> bool:
        """Return true if the last checkpoint, or the begin, is `EVERY_S` seconds ago."""
        return self._folder is not None and time.monotonic() - self._last >= EVERY_S

    def save(self, name: str, state: Checkpoint) -> None:
        """Write a checkpoint in the place of the last one of that name; a disk without room ends no run."""
        if self._folder is None:
            return
        from safetensors.numpy import save

        arrays = {
            name: np.ascontiguousarray(x).reshape(x.shape) for name, x in state.arrays.items()
        }
        notes = json.dumps(state.notes)
        about = {"key": self._key, "notes": notes, "digest": _digest(arrays, notes)}
        try:
            write_bytes(self._folder / f"{name}.safetensors", save(arrays, about))
        except InputError as error:
            _LOG.warning("no checkpoint of %s: %s", name, error.what)
        self._last = time.monotonic()

    def load(self, name: str) -> Checkpoint | None:
        """Return the checkpoint of that name; None if there is none of this key that can be read."""
        if self._folder is None or not (path := self._folder / f"{name}.safetensors").is_file():
            return None
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="numpy") as file:
                about: Mapping[str, str] = file.metadata() or {}
                if about.get("key") != self._key:
                    return None
                names = file.keys()
                arrays = {name: file.get_tensor(name) for name in names}
            if _digest(arrays, about["notes"]) != about.get("digest"):
                raise ValueError("its bytes are not those that were written")
            return Checkpoint(arrays, json.loads(about["notes"]))
        except (OSError, SafetensorError, ValueError, KeyError) as error:
            _LOG.warning(
                "the checkpoint %s cannot be read, so it is not used: %s", path.name, error
            )
            return None

    def clear(self) -> None:
        """Remove every checkpoint: the stage is finished."""
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)


def _digest(arrays: Mapping[str, NDArray[Any]], notes: str) -> str:
    """Return the SHA-256 of contiguous arrays, by name, and of what is noted beside them."""
    digest = hashlib.sha256(notes.encode())
    for name, x in sorted(arrays.items()):
        digest.update(f"{name} {x.dtype} {x.shape}".encode())
        digest.update(x.data)
    return digest.hexdigest()


NO_CHECKPOINTS = Checkpoints()
