"""The numbers half of a recipe: how scales, codes and biases are found."""

from __future__ import annotations

from dataclasses import dataclass

from edgeq.core.figures import require, require_not_negative, require_positive
from edgeq.core.serial import Spec


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingSpec(Spec):
    """How the student is trained (`edgeq.quant.train`); what a recipe leaves out is off.

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
        return f"{self.steps} steps of {self.batch}" if self.steps else "ranges alone"
