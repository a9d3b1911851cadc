"""Inputs for a comparison where there is no sample set: polygraphy's `--load-inputs` JSON, or random values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from deploy.lockstep import import_torch
from deploy.onnxrt import Array, ModelSource, Session
from deploy.random_inputs import make_feeds, require_known_names
from edgeq.core.errors import InputError
from edgeq.core.samples import SampleSet


def load_polygraphy_inputs(path: Path) -> SampleSet:
    """Return the samples of a file that `polygraphy run --save-inputs` or a bundle wrote; its iterations are joined.

    Raises:
        InputError: if the file is missing, is none of polygraphy's, or its iterations cannot be joined along axis 0.
    """
    from polygraphy.exception import PolygraphyException
    from polygraphy.json import load_json
    from polygraphy.logger import G_LOGGER

    import_torch()
    try:
        if not path.is_file():
            raise InputError(
                "the inputs are a folder" if path.is_dir() else "there is no such file of inputs",
                why="--load-inputs takes one file",
                mend="pass the file, or a folder of samples as --samples",
                path=path,
            )
        with G_LOGGER.verbosity(G_LOGGER.CRITICAL):
            data = load_json(str(path))
        iterations = [{str(name): np.asarray(x) for name, x in feed.items()} for feed in data]
        names = list(iterations[0])
        joined = {name: np.concatenate([feed[name] for feed in iterations]) for name in names}
    except (
        PolygraphyException,
        OSError,
        ValueError,
        TypeError,
        KeyError,
        AttributeError,
        IndexError,
    ) as error:
        raise InputError(
            f"the inputs cannot be read: {type(error).__name__} {error}",
            why="polygraphy's file is a list with one {input: array} each call, joined here along the batch axis",
            mend="write it with `polygraphy run MODEL --onnxrt --save-inputs inputs.json`, or take the bundle's",
            path=path,
        ) from error
    return _as_samples(joined, {"file": path.name})


def make_random_samples(
    model: ModelSource, *, count: int, shapes: Mapping[str, tuple[int, ...]], seed: int
) -> SampleSet:
    """Return `count` random samples for the inputs of an ONNX file.

    Args:
        model: whose inputs they are for.
        count: how many.
        shapes: by input name, with the batch; its size there does not matter.
        seed: the same seed gives the same samples.

    Raises:
        InputError: if a shape is unknown, does not fit, or has no batch axis.
    """
    inputs = Session(model).inputs
    require_known_names(inputs, shapes)
    for item in inputs:
        if not item.shape:
            raise InputError(
                f"input '{item.name}' is a single number without a batch axis",
                why="samples are counted along axis 0",
                mend="pass a sample set of the model, --samples DIR",
            )
    free = [replace(item, shape=(None, *item.shape[1:])) for item in inputs]
    sized = {name: (count, *shape[1:]) for name, shape in shapes.items()}
    return _as_samples(
        make_feeds(free, batch=count, shapes=sized, seed=seed), {"random": True, "seed": seed}
    )


def _as_samples(feed: dict[str, Array], provenance: dict[str, object]) -> SampleSet:
    first = next(iter(feed))
    return SampleSet(
        input_name=first,
        samples=feed[first],
        labels=None,
        provenance=provenance,
        others={name: x for name, x in feed.items() if name != first},
    )
