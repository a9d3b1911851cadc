"""How raw data become what an input expects: presets, --mean, --std and --bounds, or a default that is told.

Entries: `choose_pixels`, `choose_bytes` and `choose_values`, one a kind of input.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from edgeq.core.errors import InputError, describe_choices

# Standard deviations within which values that nothing is known of are kept.
_REACH = 4.0


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
class Wanted:
    """What the user said of the inputs; None for what was left open. See `inputs.describe_inputs`."""

    preset: str | None = None
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None
    bounds: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Preprocessing:
    """The figures of `InputSpec` of these names, how they were chosen, and what the user should know."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    chosen_by: str
    findings: tuple[str, ...] = ()


def choose_pixels(wanted: Wanted, channels: int) -> Preprocessing:
    """Return how the pixels of a float picture enter.

    1. A preset, or mean and std; the default is imagenet for 3 channels, unit for others.
    2. One channel with bounds and nothing else: black and white become the bounds (a spectrogram in dB).

    Raises:
        InputError: if the preset is unknown, or the figures do not fit.
    """
    mean, std, bounds = wanted.mean, wanted.std, wanted.bounds
    limits = bounds and tuple(_per_channel("--bounds", [value], channels)[0] for value in bounds)
    is_open = wanted.preset is None and mean is None and std is None
    means: tuple[float, ...]
    stds: tuple[float, ...]
    if limits and limits[0] < limits[1] and channels == 1 and is_open:
        low, high = limits
        means, stds, chosen_by = (low / (low - high),), (1 / (high - low),), "0..1 to --bounds"
    else:
        means, stds, chosen_by = _choose_unit(channels, wanted.preset, mean, std)
        chosen_by += ", limits from --bounds" if limits else ""
    return Preprocessing(
        mean=means,
        std=stds,
        low=(limits[0],) * channels if limits else _through(0, means, stds),
        high=(limits[1],) * channels if limits else _through(1, means, stds),
        chosen_by=chosen_by,
    )


def choose_bytes(wanted: Wanted, channels: int, *, is_picture: bool) -> Preprocessing:
    """Return how 8-bit values enter: as they are; the network normalises them itself.

    Raises:
        InputError: if a preset, mean or std was given.
    """
    if wanted.preset is not None or wanted.mean is not None or wanted.std is not None:
        raise InputError(
            "--preset, --mean or --std for an input of 8-bit values",
            why="a uint8 input takes pixels 0..255 as they are, and the network normalises them itself",
            mend="leave them out; --bounds can narrow 0..255",
        )
    low, high = wanted.bounds or (0.0, 255.0)
    count = channels if is_picture else 1
    return Preprocessing(
        mean=(0.0 if is_picture else (low + high) / 2,) * count,
        std=(1 / 255 if is_picture else (high - low) / 4,) * count,
        low=_per_channel("--bounds", [low], count),
        high=_per_channel("--bounds", [high], count),
        chosen_by="8-bit values as they are",
    )


def choose_values(wanted: Wanted, name: str) -> Preprocessing:
    """Return what is assumed of an input that is no picture: normal values, mean and std in the model's own unit.

    1. --mean and --std, one number each; the limits are --bounds, else 4 standard deviations.
    2. --bounds alone: their middle, and a quarter of their distance.
    3. Nothing: mean 0 and standard deviation 1, which the user is told.

    Raises:
        InputError: if a preset was given, or figures do not fit.
    """
    if wanted.preset is not None:
        raise InputError(
            f"--preset {wanted.preset} for the input '{name}', which is no picture",
            why="a preset says how pixels are normalised",
            mend="pass --mean and --std of its values, or --bounds",
        )
    given = _given(wanted.mean, wanted.std, None)
    findings: tuple[str, ...] = ()
    chosen_by = " and ".join([*given, *(["--bounds"] if wanted.bounds else [])])
    low, high = wanted.bounds or (-_REACH, _REACH)
    if given:
        (mean,), (std,) = (
            _per_channel(option, values or (), 1)
            for option, values in (("--mean", wanted.mean), ("--std", wanted.std))
        )
        _require_positive((std,))
        if not wanted.bounds:
            low, high = mean - _REACH * std, mean + _REACH * std
    elif wanted.bounds:
        mean, std = (low + high) / 2, abs(high - low) / 4
    else:
        mean, std, chosen_by = 0.0, 1.0, "no picture: standard normal values, -4..4"
        unknown = f"nothing is known of the values of the input '{name}', which is no picture"
        findings = (f"{unknown}: standard normal ones were taken; tell with --mean and --std",)
    return Preprocessing(
        mean=(mean,),
        std=(std,),
        low=_per_channel("--bounds", [low], 1),
        high=_per_channel("--bounds", [high], 1),
        chosen_by=chosen_by,
        findings=findings,
    )


def _through(pixel: float, means: tuple[float, ...], stds: tuple[float, ...]) -> tuple[float, ...]:
    return tuple((pixel - m) / s for m, s in zip(means, stds, strict=True))


def _given(
    mean: Sequence[float] | None, std: Sequence[float] | None, preset: str | None
) -> list[str]:
    """Return the options of the two that were given."""
    given = [option for option, value in (("--mean", mean), ("--std", std)) if value is not None]
    if len(given) == 1 and preset is None:
        raise InputError(
            f"{given[0]} came alone",
            why="pixels enter as (p - mean) / std: both are needed, or a preset that has the other",
            mend="pass --mean and --std, or add --preset",
        )
    return given


def _require_positive(stds: tuple[float, ...]) -> None:
    if min(stds) <= 0:
        raise InputError(
            f"--std has the values {', '.join(map(str, stds))}",
            why="pixels are divided by the standard deviation, so it must be greater than 0",
            mend="pass --std with one positive number, or one a channel",
        )


def _choose_unit(
    channels: int,
    preset: str | None,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
) -> tuple[tuple[float, ...], tuple[float, ...], str]:
    """Return mean [C], std [C] and how they were chosen."""
    given = _given(mean, std, preset)
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
    _require_positive(stds)
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
