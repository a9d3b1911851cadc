"""The sample set: the inputs that training, range setting and every comparison read. Numpy only.

On disk it is a folder: `samples.npy` (float32, float16 or uint8, in the model's own unit and layout), `input_1.npy` and
so on for the other inputs of a model that has several, `labels.npy` (int64, absent for outputs that are no classes),
`history.json` (the losses of the synthesis, absent where nothing was optimised) and `samples.json` (provenance,
digests, and which kind of samples lies where). Nothing is pickled.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgeq.core.errors import CalibError, EdgeqBug
from edgeq.core.files import FilePath, digest_file, read_json, write_json, write_with

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
            CalibError: if it is incomplete, or an array is missing, changed or of the wrong shape.
        """
        folder = Path(folder)
        record = read_json(folder / "samples.json")
        if not isinstance(record, dict) or record.get("schema") != SCHEMA:
            raise _unusable(folder, "samples.json has another schema")
        files = record.get("files")
        if not isinstance(files, dict) or not {"input_name", "provenance"} <= set(record):
            raise _unusable(folder, "samples.json is incomplete")
        others = [f"input_{index}.npy" for index, _ in enumerate(record.get("others", []), 1)]
        optional = [name for name in ("labels.npy", HISTORY) if name in files]
        arrays: dict[str, NDArray[Any]] = {}
        for name in ("samples.npy", *others, *optional):
            path = folder / name
            if not path.is_file() or digest_file(path) != files.get(name):
                raise _unusable(folder, f"{name} is missing or was changed")
            if name != HISTORY:
                arrays[name] = np.asarray(np.load(path, allow_pickle=False, mmap_mode="c"))
        labels = arrays.pop("labels.npy", None)
        is_known = all(x.dtype in (np.float32, np.float16, np.uint8) for x in arrays.values())
        lengths = {len(x) for x in (*arrays.values(), *([] if labels is None else [labels]))}
        if not is_known or len(lengths) != 1:
            raise _unusable(folder, "its arrays do not fit together")
        return cls(
            input_name=record["input_name"],
            samples=arrays.pop("samples.npy"),
            labels=labels,
            provenance=record["provenance"],
            others=dict(zip(record.get("others", []), arrays.values(), strict=True)),
            history=read_json(folder / HISTORY) if HISTORY in files else [],
            parts=_read_parts(folder, record.get("parts", []), lengths.pop()),
        )


def join_results(parts: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """Return what a file without a batch axis gave for each sample, with the samples along axis 0.

    Where such a network works on a batch of one, [1, C, ...], that axis becomes the one of the samples: [N, C, ...].
    Anything else gets a new axis in front.
    """
    is_batch_of_one = parts[0].ndim > 1 and parts[0].shape[0] == 1
    return np.concatenate(parts) if is_batch_of_one else np.stack(parts)


def _read_parts(folder: Path, record: Any, count: int) -> tuple[Part, ...]:
    """Return the parts that samples.json names; sets of before there were any have none."""
    try:
        parts = tuple(Part(kind=str(item["kind"]), samples=int(item["samples"])) for item in record)
    except (KeyError, TypeError, ValueError) as error:
        raise _unusable(folder, "samples.json does not tell its parts") from error
    if parts and sum(part.samples for part in parts) != count:
        raise _unusable(folder, "samples.json counts other samples than there are")
    return parts


def _write(path: Path, array: NDArray[Any]) -> None:
    write_with(path, lambda file: np.save(file, array, allow_pickle=False))


def _unusable(folder: Path, what: str) -> CalibError:
    return CalibError(
        f"the sample set cannot be used: {what}",
        why="its digests are checked before anything is trained on it",
        mend="make it anew with `edgeq synth`",
        path=folder,
    )
