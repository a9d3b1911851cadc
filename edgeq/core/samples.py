"""The sample set: the inputs that training, range setting and every comparison read. Numpy only.

On disk it is a folder: `samples.npy` (float32, the model's own unit and layout), `labels.npy` (int64, absent for
outputs that are no classes) and `samples.json` (provenance and digests). Nothing is pickled.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeq.core.errors import CalibError
from edgeq.core.files import digest_file, read_json, write_json, write_with

SCHEMA = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleSet:
    """Inputs and what is known of them.

    Attributes:
        input_name: the model input that the samples belong to.
        samples: [N, *shape], float32, normalised.
        labels: [N], int64, the classes that were aimed at; None where there are none.
        provenance: recipe, seed, figures, versions: whatever JSON can hold.
    """

    input_name: str
    samples: NDArray[np.float32]
    labels: NDArray[np.int64] | None
    provenance: dict[str, Any]

    def __len__(self) -> int:
        return len(self.samples)

    def save(self, folder: Path) -> None:
        """Write the set to `folder`; `samples.json` is written last and makes it valid."""
        write_with(
            folder / "samples.npy", lambda file: np.save(file, self.samples, allow_pickle=False)
        )
        files = {"samples.npy": digest_file(folder / "samples.npy")}
        if self.labels is not None:
            labels = self.labels
            write_with(
                folder / "labels.npy", lambda file: np.save(file, labels, allow_pickle=False)
            )
            files["labels.npy"] = digest_file(folder / "labels.npy")
        record = {
            "schema": SCHEMA,
            "input_name": self.input_name,
            "provenance": self.provenance,
            "files": files,
        }
        write_json(folder / "samples.json", record)

    @classmethod
    def load(cls, folder: Path) -> SampleSet:
        """Return the set in `folder`.

        Raises:
            InputError: if `samples.json` is missing or no JSON.
            CalibError: if it is incomplete, or an array is missing, changed or of the wrong shape.
        """
        record = read_json(folder / "samples.json")
        if not isinstance(record, dict) or record.get("schema") != SCHEMA:
            raise _unusable(folder, "samples.json has another schema")
        files = record.get("files")
        if not isinstance(files, dict) or not {"input_name", "provenance"} <= set(record):
            raise _unusable(folder, "samples.json is incomplete")
        arrays: dict[str, NDArray[Any]] = {}
        for name in ("samples.npy", "labels.npy"):
            if name == "labels.npy" and name not in files:
                continue
            path = folder / name
            if not path.is_file() or digest_file(path) != files.get(name):
                raise _unusable(folder, f"{name} is missing or was changed")
            arrays[name] = np.load(path, allow_pickle=False)
        samples, labels = arrays["samples.npy"], arrays.get("labels.npy")
        if samples.dtype != np.float32 or (labels is not None and len(labels) != len(samples)):
            raise _unusable(folder, "its arrays do not fit together")
        return cls(
            input_name=record["input_name"],
            samples=samples,
            labels=labels,
            provenance=record["provenance"],
        )


def _unusable(folder: Path, what: str) -> CalibError:
    return CalibError(
        f"the sample set cannot be used: {what}",
        why="its digests are checked before anything is trained on it",
        mend="make it anew with `edgeq synth`",
        path=folder,
    )
