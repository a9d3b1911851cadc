"""The weighted terms of the loss that samples are moved down."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from calib.diversity import Spectrum, gram_spectrum, spectral_gram_term
from calib.problem import SynthesisProblem
from calib.statistics import (
    LayerStatistics,
    batch_term,
    deviation,
    measure,
    pooled_deviation,
    sample_term,
    targets_from_table,
    with_slack,
)
from edgeq.core.recipes import SynthesisSpec
from edgeq.core.seeds import derive_seed
from edgeq.teacher.teacher import with_outputs

# How many noise images set the slack. The paper is recalled to use 1,024; the quantile over channels is stable to 1 %
# from 128 on.
SLACK_SAMPLES = 256


class Terms:
    """The loss of one run; what stays the same for all its batches is computed once."""

    def __init__(self, problem: SynthesisProblem, spec: SynthesisSpec, *, seed: int) -> None:
        self._problem = problem
        self._spec = spec
        self._seed = seed
        self._module = with_outputs(problem.teacher, [e.tensor for e in problem.table.entries])
        self._targets = targets_from_table(problem.table)
        self._spectrum: Spectrum | None = None
        self._relaxed: Sequence[LayerStatistics] = self._targets
        if spec.slack_quantile > 0:
            noise = self._noise(SLACK_SAMPLES, "slack")
            with torch.no_grad():
                _, activations = self._module(*noise)
            moments = [measure(a) for a in activations]
            self._relaxed = with_slack(self._targets, moments, quantile=spec.slack_quantile)

    def weigh(self, x: Sequence[Tensor], labels: Tensor) -> dict[str, Tensor]:
        """Return the weighted terms of the loss, each []."""
        spec = self._spec
        outputs, activations = self._module(*x)
        moments = [measure(a) for a in activations]
        terms = {}
        if moments:
            distance = pooled_deviation if spec.targets == "weights" else deviation
            term = batch_term(moments, self._targets, distance=distance)
            terms["statistics"] = spec.batch_statistics * term
        has_positions = any(m.sample_mean is not None for m in moments)
        if spec.sample_statistics > 0 and has_positions:
            terms["sample"] = spec.sample_statistics * sample_term(
                moments, self._relaxed, enhancement=spec.enhancement
            )
        rows = torch.cat([item.flatten(1) for item in x], 1)
        # Samples that are more than their values have no spectrum that could be followed: eigenvalues repeat.
        if spec.decorrelation > 0 and rows.shape[1] >= rows.shape[0]:
            weight = spec.decorrelation / max(1, len(activations))
            spectrum = self._noise_spectrum(len(rows))
            terms["decorrelation"] = weight * spectral_gram_term(rows, spectrum)
        if self._problem.classes is not None and spec.label > 0:
            terms["label"] = spec.label * torch.nn.functional.cross_entropy(
                outputs[0].float(), labels
            )
        return terms

    def _noise_spectrum(self, count: int) -> Spectrum:
        """Return the Gram spectrum of noise, drawn once a run."""
        if self._spectrum is None:
            noise = self._noise(count, "spectrum")
            self._spectrum = gram_spectrum(torch.cat([item.flatten(1) for item in noise], 1))
        return self._spectrum

    def _noise(self, count: int, purpose: str) -> list[Tensor]:
        """Return N(0, 1) values of every input."""
        generator = torch.Generator().manual_seed(derive_seed(self._seed, "synthesize", purpose))
        shapes = [own.shape for own in self._problem.inputs]
        return [torch.randn(count, *shape, generator=generator) for shape in shapes]
