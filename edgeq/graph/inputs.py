"""What the model's inputs are, and how raw pictures become what it expects.

Entry: `describe_inputs`. One float32 picture input is supported so far (N, 1 or 3 or 4 channels, H, W in either
layout); everything else is refused by name.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnx

from edgeq.core.errors import InputError, ModelError, describe_choices
from edgeq.core.specs import InputSpec, Layout
from edgeq.graph.findings import listed
from edgeq.graph.storage import type_name
from edgeq.graph.view import GraphView

Shape = tuple[int | None, ...]

_PICTURE_CHANNELS = (1, 3, 4)


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """How a family of networks was fed: raw 0..1 pixels enter as (p - mean) / std.

    Attributes:
        mean, std: one value, or one a channel.
        source: where the figures come from.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    source: str


PRESETS: dict[str, Preset] = {
    "imagenet": Preset(
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
        source="torchvision's classification weights (transforms.Normalize of ImageClassification)",
    ),
    "cifar10": Preset(
        mean=(0.4914, 0.4822, 0.4465),
        std=(0.2470, 0.2435, 0.2616),
        source="pixel statistics of the CIFAR-10 training set",
    ),
    "cifar100": Preset(
        mean=(0.5071, 0.4865, 0.4409),
        std=(0.2673, 0.2564, 0.2762),
        source="pixel statistics of the CIFAR-100 training set",
    ),
    "mnist": Preset(
        mean=(0.1307,), std=(0.3081,), source="pixel statistics of the MNIST training set"
    ),
    "unit": Preset(mean=(0.0,), std=(1.0,), source="pixels as they are, 0..1"),
    "symmetric": Preset(
        mean=(0.5,), std=(0.5,), source="-1..1: Inception, MobileNet of TensorFlow, timm's 0.5/0.5"
    ),
}
PRESETS["inception"] = PRESETS["symmetric"]


@dataclass(frozen=True, slots=True, kw_only=True)
class InputReport:
    """An input and how its preprocessing was chosen, in words for the user."""

    spec: InputSpec
    chosen_by: str


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
        mean: one value or one a channel, in units of raw 0..1 data; replaces the preset's.
        std: as `mean`, > 0.
        bounds: lowest and highest legal value in the model's own unit; None takes what pixels 0 and 1 become.
        shapes: input name to full shape, batch axis first, for axes that the file leaves open. The batch axis itself
            stays as it is in the file.

    Returns:
        One report an input, in the order of the file; `low` and `high` of the spec are [C].

    Raises:
        InputError: for an unknown preset or input name, a shape that contradicts the file or is still open, or
            mean, std or bounds that do not fit.
        ModelError: if there is no input, or more than one, or one that is no float32 picture.
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
    _require_one_float(view)
    name = view.inputs[0]
    declared = _declared_shape(view, name)
    shape = _fixed_shape(name, declared, shapes.get(name))
    layout = _layout(shape)
    if layout is Layout.OTHER:
        raise _unsupported([f"'{name}' {_text(shape)} is no picture"])
    channels = shape[1] if layout is Layout.NCHW else shape[-1]
    means, stds, chosen_by = _choose_preprocessing(channels, preset, mean, std)
    low = tuple((0 - m) / s for m, s in zip(means, stds, strict=True))
    high = tuple((1 - m) / s for m, s in zip(means, stds, strict=True))
    if bounds is not None:
        low, high = (_per_channel("--bounds", [value], channels) for value in bounds)
        chosen_by += ", limits from --bounds"
    spec = InputSpec(
        name=name,
        shape=shape[1:],
        batch=declared[0] if declared else None,
        dtype="float32",
        layout=layout,
        mean=means,
        std=stds,
        low=low,
        high=high,
    )
    return (InputReport(spec=spec, chosen_by=chosen_by),)


def _unsupported(inputs: Sequence[str]) -> ModelError:
    return ModelError(
        f"inputs that edgeq cannot make yet: {listed(inputs)}",
        why="this version makes its training set for one float32 picture input: N, 1 or 3 or 4 channels, H, W; "
        "several inputs and inputs that are no pictures come with a later version",
        mend="export the part of the network behind one picture input",
    )


def _require_one_float(view: GraphView) -> None:
    if not view.inputs:
        raise ModelError(
            "the model has no input",
            why="a network that reads nothing has nothing to quantize",
            mend="export the model again with its example input",
        )
    types = {name: type_name(view.element_type(name)) for name in view.inputs}
    told = [f"'{name}' {types[name]} {_text(_declared_shape(view, name))}" for name in view.inputs]
    if len(told) > 1 or types[view.inputs[0]] != "FLOAT":
        raise _unsupported(told)


def _declared_shape(view: GraphView, name: str) -> Shape | None:
    """Return the file's shape with None for every open axis (unnamed, named, 0 or -1), or None for an open rank."""
    shape = view.shape(name)
    return None if shape is None else tuple(size if size and size > 0 else None for size in shape)


def _fixed_shape(
    name: str, declared: Shape | None, given: tuple[int, ...] | None
) -> tuple[int, ...]:
    """Return the full shape of the input, batch axis first; an open batch axis is 1."""
    if given is None:
        shape = declared and (declared[0] or 1, *declared[1:])
    else:
        _require_agreement(name, declared, given)
        shape = given
    if not shape or None in shape:
        raise InputError(
            f"input '{name}' has open axes: {_text(declared)}",
            why="pictures are made at a fixed size; only the batch axis may stay open",
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


def _choose_preprocessing(
    channels: int,
    preset: str | None,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
) -> tuple[tuple[float, ...], tuple[float, ...], str]:
    """Return mean [C], std [C] and how they were chosen."""
    given = [option for option, value in (("--mean", mean), ("--std", std)) if value is not None]
    if len(given) == 1 and preset is None:
        raise InputError(
            f"{given[0]} came alone",
            why="pixels enter as (p - mean) / std: both are needed, or a preset that has the other",
            mend="pass --mean and --std, or add --preset",
        )
    name = preset if preset is not None else ("imagenet" if channels == 3 else "unit")
    if name not in PRESETS:
        raise InputError(
            f"there is no preset '{name}'",
            why="a preset names the mean and the standard deviation that the network was trained with",
            mend=f"{describe_choices(name, PRESETS)}; or pass --mean and --std",
        )
    chosen = PRESETS[name]
    means, stds = (
        _per_channel(f"preset {name}", own, channels)
        if values is None
        else _per_channel(option, values, channels)
        for option, values, own in (("--mean", mean, chosen.mean), ("--std", std, chosen.std))
    )
    if min(stds) <= 0:
        raise InputError(
            f"--std has the values {', '.join(map(str, stds))}",
            why="pixels are divided by the standard deviation, so it must be greater than 0",
            mend="pass --std with one positive number, or one a channel",
        )
    default = f"default for {channels} channel{'s' * (channels > 1)} (preset {name})"
    words = [] if len(given) == 2 else [default if preset is None else f"--preset {name}"]
    return means, stds, " and ".join([*words, *given])


def _per_channel(what: str, values: Sequence[float], channels: int) -> tuple[float, ...]:
    """Return one finite value a channel."""
    if len(values) not in (1, channels) or not all(math.isfinite(value) for value in values):
        raise InputError(
            f"{what} has the values {', '.join(map(str, values)) or '(none)'} for {channels} channels",
            why="one finite number for all channels, or one for each, is needed",
            mend=f"pass 1 or {channels} numbers, or another --preset",
        )
    return tuple(float(value) for value in values) * (channels if len(values) == 1 else 1)
