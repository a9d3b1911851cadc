"""Random inputs for a model that is run for its speed, or with no sample set at hand. Entry: `make_feeds`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from deploy.onnxrt import Array, ModelInput
from edgeq.core.errors import InputError, describe_choices

_LARGEST = 2**63 - 1


def make_feeds(
    inputs: Sequence[ModelInput],
    *,
    batch: int | None = None,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    seed: int = 0,
) -> dict[str, Array]:
    """Return values for every input, by name: normal with variance 1, or 0 and 1 for integers.

    Args:
        inputs: of the model.
        batch: size of a dynamic batch axis; None is 1.
        shapes: by input name, the whole shape with the batch; needed where other axes are dynamic.
        seed: the same seed gives the same values.

    Raises:
        InputError: if a shape is unknown, does not fit the file, or is too large for the memory.
    """
    rng = np.random.default_rng(seed)
    feeds: dict[str, Array] = {}
    for item in inputs:
        shape = choose_shape(item, batch, (shapes or {}).get(item.name))
        is_float = np.issubdtype(np.dtype(item.dtype), np.floating)
        try:
            values = rng.standard_normal(shape) if is_float else rng.integers(0, 2, shape)
            feeds[item.name] = values.astype(item.dtype)
        except (MemoryError, ValueError) as error:  # ValueError: more than numpy can count
            raise InputError(
                f"no memory for an input '{item.name}' of the shape {_show(shape)}",
                why=f"its values are made in memory: {error}",
                mend="ask for a smaller batch, shape or count",
            ) from error
    return feeds


def require_known_names(
    inputs: Sequence[ModelInput], shapes: Mapping[str, tuple[int, ...]]
) -> None:
    """Check that every shape that was given belongs to an input.

    Raises:
        InputError: if one does not.
    """
    known = {item.name for item in inputs}
    for name in shapes:
        if name not in known:
            raise InputError(
                f"--shape names the input '{name}', which no model has",
                why=describe_choices(name, known),
                mend="mend the name",
            )


def choose_shape(
    item: ModelInput, batch: int | None, wanted: tuple[int, ...] | None
) -> tuple[int, ...]:
    """Return the shape at which an input is run: `wanted`, or its own with `batch` on a dynamic first axis (None is 1).

    Raises:
        InputError: if another axis is dynamic, or the shape does not fit the file, has no values, or is more than ONNX
            can store.
    """
    if wanted is None:
        if any(size is None for size in item.shape[1:]):
            raise InputError(
                f"input '{item.name}' has the dynamic shape {_show(item.shape)}",
                why="only the batch axis has a default size",
                mend=f"pass --shape {item.name}:1x3x224x224 (with your sizes)",
            )
        fixed = [size for size in item.shape[1:] if size is not None]
        first = [item.shape[0] or 1 if batch is None else batch] if item.shape else []
        wanted = (*first, *fixed)
    fits = len(wanted) == len(item.shape) and all(
        has in (None, size) for has, size in zip(item.shape, wanted, strict=True)
    )
    if not fits:
        raise InputError(
            f"input '{item.name}' cannot have the shape {_show(wanted)}",
            why=f"the file fixes it to {_show(item.shape)}",
            mend="mend --shape or --batch; only the axes shown as ? are free",
        )
    if not all(1 <= size <= _LARGEST for size in wanted):
        raise InputError(
            f"input '{item.name}' cannot have the shape {_show(wanted)}",
            why=f"a size is 1 at least, and {_LARGEST} at most, which ONNX can store",
            mend="mend the batch or the shape that you ask for",
        )
    return wanted


def _show(shape: Sequence[int | None]) -> str:
    return "x".join("?" if size is None else str(size) for size in shape)
