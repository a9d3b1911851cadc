"""`--samples`: a sample set that the user has, in place of one that is synthesised. Entry: `read_samples`.

Three forms: a folder that `edgeq synth` or a build wrote; an array `.npy` of what the model takes; pictures, in a
folder or zip of any shape. Names of folders are no labels: as for dead leaves, the teacher's own answer is the only
one that is used.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeq.core.errors import CalibError, InputError
from edgeq.core.samples import SampleSet
from edgeq.core.specs import InputSpec
from edgeq.teacher.teacher import Teacher


def read_samples(
    path: Path, specs: Sequence[InputSpec], teacher: Teacher, classes: int | None
) -> SampleSet:
    """Return the sample set at `path`, as the model takes it.

    Args:
        path: folder of a sample set, `.npy` file, or folder or zip of pictures.
        specs: the inputs of the model, in file order.
        teacher: is asked for labels where the set has none.
        classes: of the first output, or None where it gives no class scores.

    Raises:
        InputError: if it is none of these, or does not fit the model's inputs or classes.
        CalibError: if a sample set is damaged.
    """
    if (path / "samples.json").is_file():
        found = SampleSet.load(path)
    elif path.suffix == ".npy":
        found = _bare_set(_load_array(path), specs, path)
    else:
        found = _bare_set(_load_pictures(path, specs), specs, path)
    require_fit(found, specs, path)
    found = dataclasses.replace(found, provenance={**found.provenance, "given": path.name})
    if classes is None:
        return dataclasses.replace(found, labels=None)
    if found.labels is None:
        return _with_labels(found, specs, teacher)
    _require_classes(found.labels, classes, path)
    return found


def digest_samples(samples: SampleSet) -> str:
    """Return the SHA-256 of all values and labels; equal sets have one digest, in whatever form they were given."""
    digest = hashlib.sha256()
    for name, x in (*samples.feed().items(), ("labels", samples.labels)):
        if x is not None:
            digest.update(f"{name} {x.dtype} {x.shape}".encode())
            for row in x:
                digest.update(np.ascontiguousarray(row).tobytes())
    return digest.hexdigest()


def _load_array(path: Path) -> NDArray[Any]:
    try:
        x: NDArray[Any] = np.atleast_1d(np.load(path, allow_pickle=False, mmap_mode="c"))
    except Exception as error:  # numpy's reader of damaged bytes raises whatever it stumbles over
        raise InputError(
            f"cannot read {path.name}: {error}",
            why="--samples takes an array of numbers as numpy.save writes it",
            mend="check the path, or save the array again",
            path=path,
        ) from error
    return x


def _load_pictures(path: Path, specs: Sequence[InputSpec]) -> NDArray[Any]:
    """Return all pictures in `path` as the first input takes them, in the order of their names."""
    from deploy.pictures import load_images

    spec = specs[0]
    x = load_images(path, spec)
    return np.rint(x).astype(spec.dtype) if spec.dtype == "uint8" else x.astype(spec.dtype)


def _bare_set(x: NDArray[Any], specs: Sequence[InputSpec], path: Path) -> SampleSet:
    if len(specs) > 1:
        raise InputError(
            f"--samples {path.name} for a network of {len(specs)} inputs",
            why="an array or a picture feeds one input, and there is nothing to feed the others with",
            mend="give a folder as `edgeq synth` writes it, which holds every input",
        )
    return SampleSet(input_name=specs[0].name, samples=x, labels=None, provenance={})


def require_fit(samples: SampleSet, specs: Sequence[InputSpec], path: Path) -> None:
    """Check that the set has every input, in its shape and type, with finite values.

    Raises:
        InputError: if one is missing, or has another shape or type, or there is no sample.
        CalibError: if a value is NaN or infinite.
    """
    found = {name: (x.shape[1:], str(x.dtype)) for name, x in samples.feed().items()}
    wanted = {spec.name: (spec.shape, spec.dtype) for spec in specs}
    if found != wanted or not len(samples):
        raise InputError(
            f"--samples {path.name} has {len(samples)} samples of {_describe(found)}",
            why=f"the model takes {_describe(wanted)}, and the first axis of an array counts the samples",
            mend="give samples of these names, shapes and types, with the preprocessing applied",
            path=path,
        )
    feed = samples.feed()
    broken = [name for name, x in feed.items() if not all(np.isfinite(row).all() for row in x)]
    if broken:
        raise CalibError(
            f"--samples {path.name} has NaN or infinity in '{broken[0]}'",
            why="ranges and losses would follow them",
            mend="remove those samples",
            path=path,
        )


def _require_classes(labels: NDArray[np.int64], classes: int, path: Path) -> None:
    """Raise unless every label is a class of the model."""
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= classes:
        raise InputError(
            f"--samples {path.name} has labels from {low} to {high}",
            why=f"the model has {classes} classes, 0 to {classes - 1}: the set was made for another one",
            mend=f"make the set anew with `edgeq synth`, or, for one input, give {path.name}/samples.npy alone: the "
            "model then labels the samples itself",
            path=path,
        )


def _with_labels(samples: SampleSet, specs: Sequence[InputSpec], teacher: Teacher) -> SampleSet:
    """Return the set with the teacher's own answers as labels."""
    from edgeq.teacher.execution import run_module, to_array

    labels = []
    for index in range(len(samples)):
        feed = samples.feed(slice(index, index + 1))
        outputs = run_module(teacher.module, {spec.name: feed[spec.name] for spec in specs})
        labels.append(to_array(outputs[0]).argmax(-1).reshape(-1))
    return dataclasses.replace(samples, labels=np.concatenate(labels).astype(np.int64))


def _describe(inputs: dict[str, tuple[tuple[int, ...], str]]) -> str:
    return ", ".join(
        f"'{name}' {'x'.join(map(str, shape))} {dtype}" for name, (shape, dtype) in inputs.items()
    )
