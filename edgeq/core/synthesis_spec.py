"""The data half of a recipe: how the sample set is made."""

from __future__ import annotations

from dataclasses import dataclass

from edgeq.core.figures import require, require_not_negative, require_positive
from edgeq.core.serial import Spec

# The figures that are words, and what they may be.
_WORDS = {
    "source": ("optimise", "leaves", "noise"),
    "start": ("leaves", "noise", "white"),
    "targets": ("recorded", "leaves", "weights"),
    "loop": ("pixels", "generator"),
    "schedule": ("cosine", "plateau", "constant"),
    "distance": ("relative", "std", "variance", "pooled"),
    "centres": ("none", "class", "pooled"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class SynthesisSpec(Spec):
    """How the sample set is made (`calib.synthesize`).

    Attributes:
        source: "optimise" pixels against the teacher's statistics; or take "leaves" (dead leaves) or "noise" (the
            baseline) as they are, which needs no statistics.
        loop: what is optimised: "pixels" (J1), or the latents and weights of a "generator" a batch (J3, Genie-D).
        start: what the pixels are before they are optimised: "leaves", low-passed "noise" or "white" noise.
        samples: how many; rounded up to whole batches.
        batch: samples that are optimised together.
        iterations: optimiser steps a batch.
        learning_rate: of Adam on the pixels, in the model's unit, or on the latents.
        schedule: "cosine" lets the rate fall to 0; "plateau" takes a tenth of it after `patience` steps without a lower
            loss, down to 1e-4; "constant" keeps it.
        patience: steps, of the plateau.
        generator_rate: of Adam on the generator's weights.
        projected: clip the pixels themselves into the legal box after every step, not only what the teacher sees.
        batch_statistics: weight of the BN statistics of the batch.
        sample_statistics: weight of the BN statistics of each sample (slack, enhanced).
        distance: between measured and recorded statistics (`calib.distances`): of means and standard deviations
            "relative" to the recorded one, or absolute ("std"), of means and "variance", or GZSQ's "pooled" one.
        sum_channels: sum the distance over channels instead of taking its mean.
        sum_layers: sum the distance over layers instead of taking its mean.
        image_statistics: weight of each picture's own mean 0 and standard deviation 1.
        slack_quantile: quantile of the deviations of Gaussian noise that is let pass (DSG; 0 for no slack).
        enhancement: factor of the one layer that each sample is made to match better (DSG; 1 for none).
        decorrelation: weight of the spectral Gram term (DSG).
        label: weight of the cross-entropy with the sample's class.
        label_power: of the factor (1 - p)^power that lets hard samples count more (HAST); 0 for none.
        soft_inception: weight of the distance of p from a confidence that is drawn for each sample (IntraQ).
        soft_inception_low: least confidence.
        margin: weight of the hinges that keep a sample's features off the centre of its class, and near it (IntraQ).
        margin_low, margin_high: cosine distances.
        total_variation: weight of the total variation (DSG's code).
        image_norm: weight of the pictures' norms (DSG's code).
        centres: calibration centres (TexQ): "none", one a "class", or one "pooled" over the classes (SynQ).
        centre_statistics: weight of the distance of the deep layers' statistics from the centres.
        centre_iterations: steps of the centres' pictures.
        centre_rate: of Adam on the centres' pictures.
        centre_texture: weight of the centres' texture term (TexQ).
        lowpass: cut-off of the Gaussian low-pass filter, as a share of the Nyquist frequency; 0 for none.
        shift: largest shift, in pixels, of the picture that the teacher sees; 0 for none.
        flip: show the teacher every other batch mirrored.
        crop: show the teacher every other batch as crops of about this share of the area or more (IntraQ); 0 for never.
        swing: pixels by which strided convolutions are shifted by chance (Genie-D); 0 for none.
        targets: statistics to match: those that training "recorded"; or, from the file alone, those of dead "leaves" in
            the network, or those that GZSQ derives from the "weights" (`calib.estimate`).
        leaves_per_sample: dead leaves that join each optimised sample as they are, under the teacher's classes. They
            cost no iterations, and differ from each other where optimised samples grow alike.
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
    leaves_per_sample: float = 0.0
    loop: str = "pixels"
    schedule: str = "cosine"
    patience: int = 50
    generator_rate: float = 0.01
    projected: bool = False
    distance: str = "relative"
    sum_channels: bool = False
    sum_layers: bool = False
    image_statistics: float = 0.0
    label_power: float = 0.0
    soft_inception: float = 0.0
    soft_inception_low: float = 1.0
    margin: float = 0.0
    margin_low: float = 0.0
    margin_high: float = 2.0
    total_variation: float = 0.0
    image_norm: float = 0.0
    centres: str = "none"
    centre_statistics: float = 0.0
    centre_iterations: int = 1
    centre_rate: float = 0.05
    centre_texture: float = 0.0
    flip: bool = True
    crop: float = 0.0
    swing: int = 0

    def __post_init__(self) -> None:
        for field, words in _WORDS.items():
            offered = ", ".join(f'"{word}"' for word in words)
            require(self, field, getattr(self, field) in words, f"one of {offered}")
        require_positive(self, "samples", "batch", "iterations", "learning_rate", "enhancement")
        require_positive(self, "patience", "generator_rate", "centre_iterations", "centre_rate")
        require_not_negative(
            self,
            "batch_statistics",
            "sample_statistics",
            "decorrelation",
            "label",
            "lowpass",
            "shift",
            "colour_spread",
            "leaves_per_sample",
            *("image_statistics", "label_power", "soft_inception", "margin", "total_variation"),
            *("image_norm", "centre_statistics", "centre_texture", "swing"),
        )
        for field in ("soft_inception_low", "crop"):
            require(self, field, 0 <= getattr(self, field) <= 1, "from 0 to 1")
        is_ordered = 0 <= self.margin_low <= self.margin_high <= 2
        require(self, "margin_low", is_ordered, "from 0 to margin_high, which is 2 at most")
        require(self, "slack_quantile", 0 <= self.slack_quantile <= 1, "from 0 to 1")

    @property
    def needs_statistics(self) -> bool:
        """Return true if the samples are made to match statistics that training recorded."""
        return self.source == "optimise" and self.targets == "recorded"

    @property
    def wants_classes(self) -> bool:
        """Return true if each sample is made for a class."""
        return self.label > 0 or self.soft_inception > 0

    @property
    def cost(self) -> str:
        """Return what it asks for, in words."""
        if self.source != "optimise":
            return f"{self.samples} samples"
        text = f"{self.samples} samples, {self.iterations} iterations each"
        if self.leaves_per_sample:
            text += f", {round(self.samples * self.leaves_per_sample)} dead leaves"
        if self.centres == "none":
            return text
        return f"{text}; {self.centre_iterations} for a picture a class"
