"""Top-1 accuracy on labelled pictures, of several models in one pass: what `--eval` prints before and after.

Labels are read here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from deploy.onnxrt import Array, ModelSource, Session, find_logits, predict_classes
from deploy.pictures import PictureSet, load_labelled_images, open_pictures
from edgeq.core.errors import InputError
from edgeq.core.progress import NoProgress, Progress
from edgeq.core.serial import Spec
from edgeq.core.specs import InputSpec

__all__ = ["EvalResult", "evaluate_top1", "load_labelled_images", "require_pictures"]

BATCH_BYTES = 16 << 20  # of input pixels; 64 pictures at most


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalResult(Spec):
    """Accuracy of one model.

    Attributes:
        correct, total: pictures.
        top1_pct: 100 * correct / total.
        classes: number of class folders.
    """

    correct: int
    total: int
    top1_pct: float
    classes: int


def evaluate_top1(
    models: Mapping[str, ModelSource],
    path: Path,
    spec: InputSpec,
    *,
    progress: Progress | None = None,
    threads: int | None = None,
) -> dict[str, EvalResult]:
    """Return the top-1 accuracy of each model, in ONNX Runtime with graph optimisation off.

    Every picture is decoded once. Memory does not depend on the number of pictures.

    Args:
        models: by a name of the caller's choice; all read the input `spec`.
        path: folder or zip, one subfolder a class, in the model's order: alphabetical, or by number.
        spec: preprocessing and shape of the input.
        progress: hears of every batch.
        threads: of ONNX Runtime.

    Raises:
        InputError: if the pictures cannot be used, or the model has another number of classes.
    """
    progress = progress or NoProgress()
    sessions = {name: Session(model, threads=threads) for name, model in models.items()}
    correct = dict.fromkeys(models, 0)
    done = 0
    with open_pictures(path) as pictures:
        progress.start("evaluate", len(pictures), "pictures")
        for x, labels in pictures.batches(spec, _batch_size(spec)):
            done += len(labels)
            for name, session in sessions.items():
                classes = _predict(session, spec, x, pictures)
                correct[name] += int((classes == labels).sum())
            figures = {f"{name}_top1_pct": 100 * hits / done for name, hits in correct.items()}
            progress.advance(len(labels), **figures)
        results = {
            name: EvalResult(
                correct=hits,
                total=done,
                top1_pct=100 * hits / done,
                classes=len(pictures.classes),
            )
            for name, hits in correct.items()
        }
    progress.finish(
        ", ".join(f"{name} {item.top1_pct:.2f} %" for name, item in results.items())
        + f" of {done} pictures"
    )
    return results


def require_pictures(path: Path, spec: InputSpec, outputs: Mapping[str, Array]) -> None:
    """Raise now what `evaluate_top1` would raise at its first picture, for a model with these `outputs` of any input.

    Raises:
        InputError: as `evaluate_top1`.
    """
    with open_pictures(path) as pictures:
        _require_logits(outputs, pictures)
        next(pictures.batches(spec, 1))


def _predict(
    session: Session, spec: InputSpec, x: NDArray[np.float32], pictures: PictureSet
) -> NDArray[np.int64]:
    """Return the predicted classes, [N]."""
    outputs = session.run({spec.name: x})
    return predict_classes(outputs[_require_logits(outputs, pictures)])


def _require_logits(outputs: Mapping[str, Array], pictures: PictureSet) -> str:
    """Return the name of the output that has one value a class folder."""
    name = find_logits(outputs)
    if name is None:
        shapes = {key: list(y.shape) for key, y in outputs.items()}
        raise InputError(
            f"the model has no output that looks like classes: {shapes}",
            why="labelled pictures measure a classifier, an output with one score a class",
            mend="leave them out; `edgeq compare` tells how far the two models differ",
            path=pictures.path,
        )
    found = outputs[name].shape[1]
    if found != len(pictures.classes):
        raise InputError(
            f"{len(pictures.classes)} class folders, but the model has {found} classes",
            why="the class of a picture is the place of its folder in alphabetical order, or by number",
            mend="give one folder a class (an empty one for a class without pictures), named in the model's order",
            path=pictures.path,
        )
    return name


def _batch_size(spec: InputSpec) -> int:
    size_bytes = 4 * int(np.prod(spec.shape))
    return max(1, min(64, BATCH_BYTES // size_bytes))
