"""The numbers half of a recipe: how scales, codes and biases are found."""

from __future__ import annotations

from dataclasses import dataclass

from edgeq.core.figures import require, require_not_negative, require_positive
from edgeq.core.serial import Spec


@dataclass(frozen=True, slots=True, kw_only=True)
class RangesSpec(Spec):
    """How the first scales are set (`edgeq.quant.initialisers`), and what is done to the weights before.

    Attributes:
        weights, activations: names of range initialisers.
        percentile: of the absolute values that "percentile" covers.
        equalize: true moves the scales of channels between consecutive layers first (`edgeq.quant.equalize`).
        equalize_activations: strength, 0 to 1, with which channels that share a scale of 4 bits or fewer are brought
            to one size first (`edgeq.quant.channels`).
    """

    weights: str = "mse"
    activations: str = "mse"
    percentile: float = 99.99
    equalize: bool = False
    equalize_activations: float = 0.0

    def __post_init__(self) -> None:
        known = ("minmax", "batch_max", "percentile", "mse", "kl")
        told = "one of " + ", ".join(known)
        require(self, "weights", self.weights in known, told)
        require(self, "activations", self.activations in known, told)
        strength = self.equalize_activations
        require(self, "equalize_activations", 0 <= strength <= 1, "from 0 to 1")
        require(self, "percentile", 50 <= self.percentile <= 100, "from 50 to 100")


@dataclass(frozen=True, slots=True, kw_only=True)
class ReconstructionSpec(Spec):
    """How each unit is fitted to what the teacher makes there (`edgeq.quant.reconstruct`).

    Attributes:
        unit: "layer" or "block".
        iterations: optimiser steps a unit; 0 for no reconstruction.
        batch: samples a step.
        rounding: what is learned of the weights: "adaround" (up or down), "weights" (the weights themselves, rounded
            to nearest) or "nearest" (nothing).
        rounding_rate: Adam's rate on AdaRound's V; constant. Other rates fall to 0 on a cosine.
        weight_rate: Adam's rate on weights, in quantization steps of the tensor.
        bias_rate: Adam's rate on biases, relative to the standard deviation of the unit's output.
        scale_rate: Adam's rate on the logarithms of activation scales.
        weight_scale_rate: Adam's rate on the logarithms of weight scales.
        activations: quantized while weights are learned ("joint"); or float then, and quantized with the first ranges
            ("float"), or with scales that a second pass learns ("after").
        keep: probability that an activation inside the unit is quantized (QDrop; 1 for always).
        prefix: probability that an input of the unit comes from the quantized part before it, not from the teacher.
        regulariser: weight of AdaRound's regulariser.
        beta_start, beta_end: its exponent.
        warmup: share of the steps before it acts.
        prediction: weight of the divergence of the network's prediction (PD-Quant); 0 for none.
        temperature: of that divergence.
    """

    unit: str = "block"
    iterations: int = 0
    batch: int = 32
    rounding: str = "adaround"
    rounding_rate: float = 0.001
    weight_rate: float = 0.0
    bias_rate: float = 0.0
    scale_rate: float = 0.0
    weight_scale_rate: float = 0.0
    activations: str = "joint"
    keep: float = 1.0
    prefix: float = 1.0
    regulariser: float = 0.01
    beta_start: float = 20.0
    beta_end: float = 2.0
    warmup: float = 0.2
    prediction: float = 0.0
    temperature: float = 4.0

    def __post_init__(self) -> None:
        require(self, "unit", self.unit in {"layer", "block"}, '"layer" or "block"')
        roundings = {"adaround", "weights", "nearest"}
        told = 'one of "adaround", "weights", "nearest"'
        require(self, "rounding", self.rounding in roundings, told)
        ways = {"joint", "float", "after"}
        require(self, "activations", self.activations in ways, 'one of "joint", "float", "after"')
        require_positive(self, "batch", "beta_start", "beta_end", "temperature")
        rates = ("rounding_rate", "weight_rate", "bias_rate", "scale_rate", "weight_scale_rate")
        require_not_negative(self, "iterations", "regulariser", "prediction", *rates)
        for name in ("keep", "prefix"):
            require(self, name, 0 <= getattr(self, name) <= 1, "from 0 to 1")
        require(self, "warmup", 0 <= self.warmup < 1, "from 0 to below 1")

    @property
    def cost(self) -> str:
        """Return what it asks for, in words."""
        second = ", twice" if self.activations == "after" else ""
        return f"{self.iterations} steps of {self.batch} a {self.unit}{second}"


@dataclass(frozen=True, slots=True, kw_only=True)
class CorrectionSpec(Spec):
    """What is corrected at the end, layer by layer (`edgeq.quant.correct`).

    Attributes:
        bias: true restores the mean of each channel's output.
        variance: true restores its variance, too, through the weights' scales.
    """

    bias: bool = False
    variance: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingSpec(Spec):
    """How the student is trained (`edgeq.quant.train`); what a recipe leaves out is off.

    Attributes:
        range_samples: samples that set the first ranges, and correct means; from each kind in the set by its share.
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

    range_samples: int = 256
    steps: int = 0
    batch: int = 64
    weight_rate: float = 0.0
    scale_rate: float = 0.0
    bias_rate: float = 0.0
    temperature: float = 1.0
    distillation: float = 0.0
    features: float = 0.0
    hard_label: float = 0.0
    difficulty: float = 0.5
    activation_map: float = 0.0
    flip: bool = False
    shift: int = 0
    mix: float = 0.0

    def __post_init__(self) -> None:
        require_positive(self, "range_samples", "batch", "temperature")
        rates = ("steps", "weight_rate", "scale_rate", "bias_rate", "shift")
        weights = ("distillation", "features", "hard_label", "activation_map")
        require_not_negative(self, *rates, *weights)
        require(self, "difficulty", 0 <= self.difficulty <= 1, "from 0 to 1")
        require(self, "mix", 0 <= self.mix <= 1, "from 0 to 1")

    @property
    def cost(self) -> str:
        """Return what it asks for, in words."""
        return f"{self.steps} steps of {self.batch}"
