"""What the model's inputs are, and how raw data become what it expects.

Entry: `describe_inputs`. Inputs are float32, float16, bfloat16 or uint8, with the batch on axis 0 or without one:
pictures (1, 3 or 4 channels, H, W in either layout) or anything else; other types are refused by name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnx

from edgeq.core.errors import InputError, ModelError, describe_choices
from edgeq.core.specs import InputSpec, Layout
from edgeq.graph.batch_axis import lacks_batch_axis
from edgeq.graph.findings import listed
from edgeq.graph.preprocessing import (
    PRESETS,
    Preprocessing,
    Wanted,
    choose_bytes,
    choose_pixels,
    choose_values,
)
from edgeq.graph.storage import type_name
from edgeq.graph.view import GraphView

__all__ = ["PRESETS", "InputReport", "describe_inputs"]

Shape = tuple[int | None, ...]

_PICTURE_CHANNELS = (1, 3, 4)
# numpy has no bfloat16: its values are held in float32, and rounded where they enter a model.
_DTYPES = {"FLOAT": "float32", "FLOAT16": "float16", "BFLOAT16": "float32", "UINT8": "uint8"}


@dataclass(frozen=True, slots=True, kw_only=True)
class InputReport:
    """An input, how its preprocessing was chosen in words for the user, and what the user should know."""

    spec: InputSpec
    chosen_by: str
    findings: tuple[str, ...] = ()


def describe_inputs(
    model: onnx.ModelProto,
    *,
    preset: str | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    bounds: tuple[float, float] | None = None,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
) -> tuple[InputReport, ...]:
    """Return every input of the model with its shape, layout and preprocessing.

    Args:
        model: a loaded model; only its graph inputs are read.
        preset: a name of `PRESETS`; None takes imagenet for 3 channels, unit for others.
        mean: one value or one a channel, in units of raw 0..1 data; replaces the preset's. Where no input is a picture,
            one value in the model's own unit.
        std: as `mean`, > 0.
        bounds: lowest and highest legal value in the model's own unit; None takes what pixels 0 and 1 become.
        shapes: input name to full shape, batch axis first where there is one, for axes that the file leaves open. The
            batch axis itself stays as it is in the file.

    Returns:
        One report an input, in the order of the file; `low` and `high` of the spec are [C], or [1] for no picture. With
        pictures among several inputs, preset, mean, std and bounds are theirs.

    Raises:
        InputError: for an unknown preset or input name, a shape that contradicts the file or is still open, or
            mean, std or bounds that do not fit.
        ModelError: if there is no input, or one of a type that is not supported or without any axis, or if the batch
            sizes differ.
    """
    view = GraphView(model)
    shapes = shapes or {}
    for name in shapes:
        if name not in view.inputs:
            raise InputError(
                f"--shape names '{name}', which is no input of the model",
                why="a shape belongs to an input by its name",
                mend=describe_choices(name, view.inputs),
            )
    dtypes = _require_types(view)
    declared = {name: _declared_shape(view, name) for name in view.inputs}
    batch = _batch_size(view, declared)
    fixed = {
        name: _fixed_shape(name, declared[name], shapes.get(name), has_batch=batch != 0)
        for name in view.inputs
    }
    wanted = Wanted(preset=preset, mean=mean, std=std, bounds=bounds)
    has_picture = any(_layout(shape) is not Layout.OTHER for shape in fixed.values())
    reports = []
    for name, shape in fixed.items():
        layout = _layout(shape)
        own = Wanted() if has_picture and layout is Layout.OTHER else wanted
        chosen = _choose(own, name, shape, layout, dtypes[name])
        spec = InputSpec(
            name=name,
            shape=shape[1:],
            batch=batch,
            dtype=dtypes[name],
            layout=layout,
            mean=chosen.mean,
            std=chosen.std,
            low=chosen.low,
            high=chosen.high,
        )
        report = InputReport(spec=spec, chosen_by=chosen.chosen_by, findings=chosen.findings)
        reports.append(report)
    return tuple(reports)


def _choose(
    wanted: Wanted, name: str, shape: tuple[int, ...], layout: Layout, dtype: str
) -> Preprocessing:
    channels = shape[-1] if layout is Layout.NHWC else shape[1]
    if dtype == "uint8":
        return choose_bytes(wanted, channels, is_picture=layout is not Layout.OTHER)
    return (
        choose_values(wanted, name) if layout is Layout.OTHER else choose_pixels(wanted, channels)
    )


def _require_types(view: GraphView) -> dict[str, str]:
    """Return the numpy type of every input by name."""
    if not view.inputs:
        raise ModelError(
            "the model has no input",
            why="a network that reads nothing has nothing to quantize",
            mend="export the model again with its example input",
        )
    types = {name: type_name(view.element_type(name)) for name in view.inputs}
    odd = [
        f"'{name}' {kind} {_text(_declared_shape(view, name))}"
        for name, kind in types.items()
        if kind not in _DTYPES
    ]
    if odd:
        raise ModelError(
            f"inputs that edgeq cannot make: {listed(odd)}",
            why="the training set is made of float32 values and 8-bit pixels (FLOAT, FLOAT16, BFLOAT16, UINT8)",
            mend="export the part of the network behind such inputs, or give them a constant",
        )
    return {name: _DTYPES[kind] for name, kind in types.items()}


def _batch_size(view: GraphView, declared: Mapping[str, Shape | None]) -> int | None:
    """Return the batch size of the file, None where it is dynamic, or 0 where there is no batch axis."""
    scalar = next((name for name, shape in declared.items() if shape == ()), None)
    if scalar is not None:
        raise ModelError(
            f"the input '{scalar}' is a single number",
            why="samples are made for inputs with at least one axis",
            mend="export the network with a constant in its place, or with an input of one axis",
        )
    lacking = [name for name in declared if lacks_batch_axis(view, name)]
    if len(lacking) == len(declared):
        return 0
    sizes = {name: shape[0] if shape else None for name, shape in declared.items()}
    told = ", ".join(f"'{name}' {_text(declared[name])}" for name in sizes)
    if lacking:
        raise ModelError(
            f"some inputs have a batch axis and some have none: {told}",
            why="a sample is one entry along axis 0 of every input, or all that every input takes",
            mend="export the model again with one dynamic batch axis for all inputs",
        )
    if len(set(sizes.values())) > 1:
        raise ModelError(
            f"the inputs have different batch sizes: {told}",
            why="a sample is one entry along axis 0 of every input",
            mend="export the model again with one dynamic batch axis for all inputs",
        )
    return next(iter(sizes.values()))


def _declared_shape(view: GraphView, name: str) -> Shape | None:
    """Return the file's shape with None for every open axis (unnamed, named, 0 or -1), or None for an open rank."""
    shape = view.shape(name)
    return None if shape is None else tuple(size if size and size > 0 else None for size in shape)


def _fixed_shape(
    name: str, declared: Shape | None, given: tuple[int, ...] | None, *, has_batch: bool
) -> tuple[int, ...]:
    """Return the shape of the input, batch axis first; a batch axis that is open or absent is 1."""
    shape = declared
    if given is not None:
        _require_agreement(name, declared, given)
        shape = given
    elif declared and has_batch:
        shape = (declared[0] or 1, *declared[1:])
    if shape and not has_batch:
        shape = (1, *shape)
    if not shape or None in shape:
        raise InputError(
            f"input '{name}' has open axes: {_text(declared)}",
            why="samples are made at a fixed size; only the batch axis may stay open",
            mend=f"pass --shape {name}:{_example(declared)} (with your sizes)",
        )
    return tuple(size for size in shape if size is not None)


def _require_agreement(name: str, declared: Shape | None, given: tuple[int, ...]) -> None:
    is_legal = bool(given) and all(size > 0 for size in given)
    fits = declared is None or (
        len(given) == len(declared)
        and all(want in (None, size) for want, size in zip(declared, given, strict=True))
    )
    if not is_legal or not fits:
        raise InputError(
            f"--shape {name}:{'x'.join(map(str, given))} does not fit the input {_text(declared)}",
            why="every axis, the batch axis first, needs a size above 0, and axes that the file fixes keep their size",
            mend=f"pass --shape {name}:{_example(declared)}",
        )


def _example(declared: Shape | None) -> str:
    """Return a shape to propose: the file's own sizes, and ordinary ones for open axes."""
    if not declared or len(declared) != 4:
        return "1x3x224x224" if not declared else "x".join(str(size or 1) for size in declared)
    usual = (1, 224, 224, 3) if declared[3] in _PICTURE_CHANNELS else (1, 3, 224, 224)
    return "x".join(str(size or other) for size, other in zip(declared, usual, strict=True))


def _text(shape: Shape | None) -> str:
    if shape is None:
        return "of unknown rank"
    return f"[{', '.join('?' if size is None else str(size) for size in shape)}]"


def _layout(shape: tuple[int, ...]) -> Layout:
    """Return where the channels are: axis 1 if it can hold them, else the last one if that can."""
    if len(shape) != 4:
        return Layout.OTHER
    if shape[1] in _PICTURE_CHANNELS:
        return Layout.NCHW
    return Layout.NHWC if shape[3] in _PICTURE_CHANNELS else Layout.OTHER
