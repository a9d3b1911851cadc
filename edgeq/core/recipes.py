"""Recipes: published methods, and ours, as figures over shared blocks.

A recipe is a TOML file in `edgeq/recipes/`. Its tables `[synthesis]` and `[training]` hold the figures of the
standard effort; `[effort.quick.*]` and `[effort.max.*]` replace some of them. `--set synthesis.samples=256` replaces
one figure of whatever was chosen.
"""

from __future__ import annotations

import dataclasses
import math
import sys
import typing
from dataclasses import dataclass
from importlib import resources
from typing import Any

from edgeq.core.errors import EdgeqBug, InputError, describe_choices
from edgeq.core.serial import Spec
from edgeq.core.specs import Effort

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

DEFAULT_RECIPE = "edgeq"


@dataclass(frozen=True, slots=True, kw_only=True)
class SynthesisSpec(Spec):
    """How the sample set is made (`calib.synthesize`).

    Attributes:
        source: "optimise" pixels against the teacher's statistics; or take "leaves" (dead leaves) or "noise" (the
            baseline) as they are, which needs no statistics.
        start: what the pixels are before they are optimised: "leaves" or low-passed "noise".
        samples: how many; rounded up to whole batches.
        batch: samples that are optimised together.
        iterations: optimiser steps a batch.
        learning_rate: of Adam on the pixels, in the model's unit; falls to 0 on a cosine.
        batch_statistics: weight of the BN statistics of the batch.
        sample_statistics: weight of the BN statistics of each sample (slack, enhanced).
        slack_quantile: quantile of the deviations of Gaussian noise that is let pass (DSG; 0 for no slack).
        enhancement: factor of the one layer that each sample is made to match better (DSG; 1 for none).
        decorrelation: weight of the spectral Gram term (DSG).
        label: weight of the cross-entropy with the sample's class.
        lowpass: cut-off of the Gaussian low-pass filter, as a share of the Nyquist frequency; 0 for none.
        shift: largest shift, in pixels, of the picture that the teacher sees; 0 for none.
        targets: statistics to match: those that training "recorded"; or, from the file alone, those of dead "leaves" in
            the network, or those that GZSQ derives from the "weights" (`calib.estimate`).
        colour_spread: how far the colours of dead leaves are from grey (`calib.leaves`).
    """

    source: str
    start: str
    samples: int
    batch: int
    iterations: int
    learning_rate: float
    batch_statistics: float
    sample_statistics: float
    slack_quantile: float
    enhancement: float
    decorrelation: float
    label: float
    lowpass: float
    shift: int
    targets: str = "recorded"
    colour_spread: float = 0.25

    def __post_init__(self) -> None:
        sources = {"optimise", "leaves", "noise"}
        _require(self, "source", self.source in sources, 'one of "optimise", "leaves", "noise"')
        _require(self, "start", self.start in {"leaves", "noise"}, 'one of "leaves", "noise"')
        targets = {"recorded", "leaves", "weights"}
        _require(self, "targets", self.targets in targets, 'one of "recorded", "leaves", "weights"')
        _require_positive(self, "samples", "batch", "iterations", "learning_rate", "enhancement")
        _require_not_negative(
            self,
            "batch_statistics",
            "sample_statistics",
            "decorrelation",
            "label",
            "lowpass",
            "shift",
            "colour_spread",
        )
        _require(self, "slack_quantile", 0 <= self.slack_quantile <= 1, "from 0 to 1")

    @property
    def needs_statistics(self) -> bool:
        """Return true if the samples are made to match statistics that training recorded."""
        return self.source == "optimise" and self.targets == "recorded"


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingSpec(Spec):
    """How the student is trained (`edgeq.quant.train`).

    Attributes:
        range_samples: samples that set the first ranges.
        steps: optimiser steps; 0 keeps the first ranges and rounded weights.
        batch: samples a step.
        weight_rate: Adam's rate on weights, in quantization steps of the tensor.
        scale_rate: Adam's rate on the logarithm of each scale.
        bias_rate: Adam's rate on biases, relative to the standard deviation of the layer's output.
        temperature: of the distillation.
        distillation: weight of the divergence from the teacher's outputs.
        features: weight of the relative error of the block outputs.
        hard_label: weight of the cross-entropy of easy samples (SynQ).
        difficulty: samples whose difficulty is above this keep the teacher's soft labels alone (SynQ's tau).
        activation_map: weight of the class activation map alignment (SynQ).
        flip: mirror half of the samples left to right.
        shift: largest shift in pixels.
        mix: largest share of a second sample that is mixed in.
    """

    range_samples: int
    steps: int
    batch: int
    weight_rate: float
    scale_rate: float
    bias_rate: float
    temperature: float
    distillation: float
    features: float
    hard_label: float
    difficulty: float
    activation_map: float
    flip: bool
    shift: int
    mix: float

    def __post_init__(self) -> None:
        _require_positive(self, "range_samples", "batch", "temperature")
        rates = ("steps", "weight_rate", "scale_rate", "bias_rate", "shift")
        weights = ("distillation", "features", "hard_label", "activation_map")
        _require_not_negative(self, *rates, *weights)
        _require(self, "difficulty", 0 <= self.difficulty <= 1, "from 0 to 1")
        _require(self, "mix", 0 <= self.mix <= 1, "from 0 to 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe(Spec):
    """A method: where it comes from, and its figures for one effort.

    Attributes:
        without_statistics: the recipe that takes this one's place where nothing recorded the statistics of the training
            data; "" where this one needs none, or nothing may take its place.
    """

    name: str
    title: str
    source: str
    notes: str
    effort: Effort
    synthesis: SynthesisSpec
    training: TrainingSpec
    without_statistics: str = ""


def recipe_names() -> tuple[str, ...]:
    """Return the names of all recipes in alphabetical order."""
    folder = resources.files("edgeq") / "recipes"
    return tuple(
        sorted(
            item.name[: -len(".toml")] for item in folder.iterdir() if item.name.endswith(".toml")
        )
    )


def load_recipe(
    name: str, *, effort: Effort = Effort.STANDARD, settings: dict[str, str] | None = None
) -> Recipe:
    """Return a recipe with the figures of `effort`, some replaced by `settings`.

    Args:
        name: a name of `recipe_names`.
        effort: which figures.
        settings: "synthesis.samples" or "training.steps" and the like, to text as on the command line.

    Raises:
        InputError: for an unknown name, key or value; the nearest names are offered.
    """
    if name not in recipe_names():
        raise InputError(
            f"unknown recipe '{name}'",
            why="edgeq has no recipe of that name",
            mend=f"{describe_choices(name, recipe_names())}; `edgeq recipes` tells what each is",
        )
    data = tomllib.loads((resources.files("edgeq") / "recipes" / f"{name}.toml").read_text("utf-8"))
    efforts = data.pop("effort", {})
    sections: dict[str, dict[str, Any]] = {key: data.pop(key) for key in ("synthesis", "training")}
    for key, figures in efforts.get(effort.value, {}).items():
        sections[key].update(figures)
    kinds = {"synthesis": SynthesisSpec, "training": TrainingSpec}
    for key, text in (settings or {}).items():
        section, _, field = key.partition(".")
        known = [
            f"{part}.{item.name}"
            for part, kind in kinds.items()
            for item in dataclasses.fields(kind)
        ]
        if key not in known:
            raise InputError(
                f"--set {key}: there is no such figure",
                why="--set replaces one figure of the recipe",
                mend=describe_choices(key, known),
            )
        sections[section][field] = _parse(key, text, typing.get_type_hints(kinds[section])[field])
    if data.get("name") != name:
        msg = f"recipe file {name}.toml calls itself {data.get('name')!r}"
        raise EdgeqBug(msg)
    return Recipe(
        **data,
        effort=effort,
        synthesis=SynthesisSpec.from_dict(sections["synthesis"]),
        training=TrainingSpec.from_dict(sections["training"]),
    )


def list_recipes() -> tuple[Recipe, ...]:
    """Return every recipe with the figures of the standard effort."""
    return tuple(load_recipe(name) for name in recipe_names())


def _parse(key: str, text: str, kind: type) -> Any:
    if kind is bool and text.lower() in {"true", "false"}:
        return text.lower() == "true"
    try:
        if kind in {int, float, str}:
            value: int | float | str = kind(text)
            if not isinstance(value, float) or math.isfinite(value):
                return value
    except ValueError:
        pass
    raise InputError(
        f"--set {key}={text}: no {kind.__name__}",
        why=f"this figure is a {kind.__name__}",
        mend=f"pass --set {key}=VALUE with such a value",
    )


def _require(spec: Spec, field: str, holds: bool, what: str) -> None:
    if not holds:
        raise InputError(
            f"the figure '{field}' is {getattr(spec, field)}",
            why=f"it must be {what}",
            mend="change it with --set, or leave the recipe's own",
        )


def _require_positive(spec: Spec, *fields: str) -> None:
    for field in fields:
        _require(spec, field, getattr(spec, field) > 0, "greater than 0")


def _require_not_negative(spec: Spec, *fields: str) -> None:
    for field in fields:
        _require(spec, field, getattr(spec, field) >= 0, "0 or greater")
