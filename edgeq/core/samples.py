"""The sample set: the inputs that training, range setting and every comparison read. Numpy only.

On disk it is a folder: `samples.npy` (float32, float16 or uint8, in the model's own unit and layout), `input_1.npy` and
so on for the other inputs of a model that has several, `labels.npy` (int64, absent for outputs that are no classes),
`history.json` (the losses of the synthesis, absent where nothing was optimised) and `samples.json` (provenance,
digests, and which kind of samples lies where). Nothing is pickled.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgeq.core.errors import CalibError, EdgeqBug, InputError
from edgeq.core.files import FilePath, digest_file, read_json, write_json, write_with
from edgeq.core.serial import Spec, canonical_json

SCHEMA = 1
HISTORY = "history.json"


class Part(NamedTuple):
    """Samples of one kind, which lie together.

    Attributes:
        kind: in words, as a plural: "optimised samples".
        samples: how many.
    """

    kind: str
    samples: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleSet:
    """Inputs and what is known of them.

    Attributes:
        input_name: the model input that the samples belong to; the first one of several.
        samples: [N, *shape], float32, float16 or uint8, normalised.
        labels: [N], int64, the classes that were aimed at; None where there are none.
        provenance: recipe, seed, figures, versions: whatever JSON can hold.
        others: of the further inputs, by name; as `samples`.
        history: terms of the loss, one entry an iteration, each the mean over the batches; empty where there was none.
        parts: kinds of samples, in the order in which they lie, and how many there are of each; empty where all are of
            one kind, or where nothing is known of it.
    """

    input_name: str
    samples: NDArray[Any]
    labels: NDArray[np.int64] | None
    provenance: dict[str, Any]
    others: dict[str, NDArray[Any]] = field(default_factory=dict)
    history: list[dict[str, float]] = field(default_factory=list)
    parts: tuple[Part, ...] = ()

    def __post_init__(self) -> None:
        counted = sum(part.samples for part in self.parts)
        if self.parts and counted != len(self.samples):
            msg = f"{counted} samples in the parts of a set of {len(self.samples)}"
            raise EdgeqBug(msg)

    def __len__(self) -> int:
        return len(self.samples)

    def feed(self, pick: slice | NDArray[np.integer] = slice(None)) -> dict[str, NDArray[Any]]:
        """Return the picked samples of every input, by name."""
        return {self.input_name: self.samples[pick]} | {
            name: x[pick] for name, x in self.others.items()
        }

    def share(self, count: int) -> NDArray[np.int64]:
        """Return the indices of `count` samples, or of all: the first ones of each part, as many as its share is."""
        ends = np.cumsum([part.samples for part in self.parts] or [len(self)])
        sizes = np.diff(ends, prepend=0)
        # Rounded at the ends, so that the shares add up to `count`.
        taken = np.diff(ends * min(count, len(self)) // len(self), prepend=0)
        starts = ends - sizes
        return np.concatenate(
            [np.arange(start, start + n) for start, n in zip(starts, taken, strict=True)]
        )

    def save(self, folder: FilePath) -> list[str]:
        """Write the set to `folder`; `samples.json` is written last and makes it valid. Return the files' names."""
        folder = Path(folder)
        arrays = {"samples.npy": self.samples}
        arrays |= {f"input_{index}.npy": x for index, x in enumerate(self.others.values(), 1)}
        if self.labels is not None:
            arrays["labels.npy"] = self.labels
        for name, array in arrays.items():
            _write(folder / name, array)
        names = list(arrays)
        if self.history:
            write_json(folder / HISTORY, self.history)
            names.append(HISTORY)
        record: dict[str, Any] = {
            "schema": SCHEMA,
            "input_name": self.input_name,
            "provenance": self.provenance,
            "files": {name: digest_file(folder / name) for name in names},
        }
        if self.others:
            record["others"] = list(self.others)
        if self.parts:
            record["parts"] = [part._asdict() for part in self.parts]
        write_json(folder / "samples.json", record)
        return [*names, "samples.json"]

    @classmethod
    def load(cls, folder: FilePath) -> SampleSet:
        """Return the set in `folder`; its arrays are read from the files where they are looked at.

        Raises:
            InputError: if `samples.json` is missing or no JSON.
            CalibError: if it is incomplete or damaged, or an array is missing, changed, no array or of the wrong shape.
        """
        folder = Path(folder)
        record = _read_record(folder)
        names = ["samples.npy", *(f"input_{i}.npy" for i, _ in enumerate(record.others, 1))]
        inputs = [_read_array(folder, name, record.files) for name in names]
        has_labels = "labels.npy" in record.files
        labels = _read_array(folder, "labels.npy", record.files) if has_labels else None
        is_known = all(x.ndim and x.dtype in (np.float32, np.float16, np.uint8) for x in inputs)
        are_classes = labels is None or (labels.dtype.kind in "iu" and labels.ndim == 1)
        counts = {x.shape[:1] for x in (*inputs, *([] if labels is None else [labels]))}
        if not is_known or not are_classes or len(counts) != 1:
            raise _unusable(folder, "its arrays do not fit together")
        if record.parts and sum(part.samples for part in record.parts) != len(inputs[0]):
            raise _unusable(folder, "samples.json counts other samples than there are")
        return cls(
            input_name=record.input_name,
            samples=inputs[0],
            labels=labels,
            provenance=record.provenance,
            others=dict(zip(record.others, inputs[1:], strict=True)),
            history=_read_history(folder, record.files) if HISTORY in record.files else [],
            parts=record.parts,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Record(Spec):
    """What `samples.json` holds; `others` and `parts` are absent from it where there are none."""

    input_name: str
    provenance: dict[str, Any]
    files: dict[str, str]
    others: tuple[str, ...] = ()
    parts: tuple[Part, ...] = ()


def join_results(parts: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """Return what a file without a batch axis gave for each sample, with the samples along axis 0.

    Where such a network works on a batch of one, [1, C, ...], that axis becomes the one of the samples: [N, C, ...].
    Anything else gets a new axis in front.
    """
    is_batch_of_one = parts[0].ndim > 1 and parts[0].shape[0] == 1
    return np.concatenate(parts) if is_batch_of_one else np.stack(parts)


def _read_record(folder: Path) -> _Record:
    found = read_json(folder / "samples.json")
    if not isinstance(found, dict) or found.get("schema") != SCHEMA:
        raise _unusable(folder, "samples.json has another schema")
    try:
        # Python's parser takes NaN, which no file that is made of the set can hold.
        canonical_json(found)
        record = _Record.from_dict(found)
    except (InputError, ValueError) as error:
        what = error.what if isinstance(error, InputError) else str(error)
        raise _unusable(folder, f"samples.json is incomplete or damaged: {what}") from error
    if any(part.samples < 0 for part in record.parts):
        raise _unusable(folder, "samples.json counts fewer than no samples")
    return record


def _read_array(folder: Path, name: str, digests: dict[str, str]) -> NDArray[Any]:
    """Return a view of the array; its values are read where they are looked at."""
    path = _require_same(folder, name, digests)
    try:
        return np.asarray(np.load(path, allow_pickle=False, mmap_mode="c"))
    except Exception as error:  # numpy's reader of damaged bytes raises whatever it stumbles over
        raise _unusable(folder, f"{name} is no array of numbers: {error}") from error


def _read_history(folder: Path, digests: dict[str, str]) -> list[dict[str, float]]:
    found = read_json(_require_same(folder, HISTORY, digests))
    entries: list[Any] = found if isinstance(found, list) else [None]
    figures = [
        x for entry in entries for x in (entry.values() if isinstance(entry, dict) else [None])
    ]
    if not all(isinstance(x, float) and math.isfinite(x) for x in figures):
        raise _unusable(folder, f"{HISTORY} is no list of losses")
    return entries


def _require_same(folder: Path, name: str, digests: dict[str, str]) -> Path:
    """Return the path of a file whose bytes are those that were written."""
    path = folder / name
    try:
        is_same = path.is_file() and digest_file(path) == digests.get(name)
    except OSError as error:
        raise _unusable(folder, f"{name} cannot be read: {error.strerror}") from error
    if not is_same:
        raise _unusable(folder, f"{name} is missing or was changed")
    return path


def _write(path: Path, array: NDArray[Any]) -> None:
    write_with(path, lambda file: np.save(file, array, allow_pickle=False))


def _unusable(folder: Path, what: str) -> CalibError:
    return CalibError(
        f"the sample set cannot be used: {what}",
        why="its digests are checked before anything is trained on it",
        mend="make it anew with `edgeq synth`",
        path=folder,
    )
