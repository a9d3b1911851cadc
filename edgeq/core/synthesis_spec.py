"""The data half of a recipe: how the sample set is made."""

from __future__ import annotations

from dataclasses import dataclass

from edgeq.core.figures import require, require_not_negative, require_positive
from edgeq.core.serial import Spec


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
        require(self, "source", self.source in sources, 'one of "optimise", "leaves", "noise"')
        require(self, "start", self.start in {"leaves", "noise"}, 'one of "leaves", "noise"')
        targets = {"recorded", "leaves", "weights"}
        require(self, "targets", self.targets in targets, 'one of "recorded", "leaves", "weights"')
        require_positive(self, "samples", "batch", "iterations", "learning_rate", "enhancement")
        require_not_negative(
            self,
            "batch_statistics",
            "sample_statistics",
            "decorrelation",
            "label",
            "lowpass",
            "shift",
            "colour_spread",
        )
        require(self, "slack_quantile", 0 <= self.slack_quantile <= 1, "from 0 to 1")

    @property
    def needs_statistics(self) -> bool:
        """Return true if the samples are made to match statistics that training recorded."""
        return self.source == "optimise" and self.targets == "recorded"

    @property
    def cost(self) -> str:
        """Return what it asks for, in words."""
        if self.source != "optimise":
            return f"{self.samples} samples"
        return f"{self.samples} samples, {self.iterations} iterations each"
