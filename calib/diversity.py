"""Terms that keep the samples of a batch unlike each other."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Spectrum:
    """Eigenvalues [N], ascending, and eigenvectors [N, N], in columns, of a batch's Gram matrix; float64."""

    values: Tensor
    vectors: Tensor


def gram_spectrum(x: Tensor) -> Spectrum:
    """Return the spectrum of K = U U^T, U the flattened samples of `x` [N, ...] scaled to unit length.

    The products of samples are summed in the type of `x`, all else is float64.
    """
    rows = x.flatten(1)
    # One product forward, and one back in place of two.
    half = rows @ rows.detach().T
    gram = (half + half.T - half.detach()).double()
    norms = gram.diagonal().clamp_min(1e-24).sqrt()
    values, vectors = torch.linalg.eigh(gram / torch.outer(norms, norms))
    return Spectrum(values=values, vectors=vectors)


def spectral_gram_term(x: Tensor, noise: Spectrum) -> Tensor:
    """Return how far the batch's Gram spectrum is from that of uncorrelated noise; [].

    With lambda, V the spectrum of the batch and lambda*, V* that of noise:
    1e-4 mean (lambda - lambda*)^2 + mean_j lhat_j (1 - |<V_j, V*_j>|), lhat = lambda* scaled to 0..1.

    Args:
        x: [N, ...], the batch.
        noise: of a N(0, 1) batch of the same shape.

    Source: spatial correlation inhibition of DSG (Qin et al., TPAMI 2023), block E1. Deviations: symmetric
    eigendecomposition in float64, sorted; the inner product's absolute value, since an eigenvector's sign is
    arbitrary; written as a distance, so that its minimum is 0; one noise batch a run instead of one a step.
    """
    found = gram_spectrum(x)
    span = (noise.values[-1] - noise.values[0]).clamp_min(1e-12)
    weights = (noise.values - noise.values[0]) / span
    alignment = (found.vectors * noise.vectors).sum(0).abs()
    gap = (found.values - noise.values).square().mean()
    return (1e-4 * gap + (weights * (1 - alignment)).mean()).float()


def margin_term(features: Tensor, centres: Tensor, *, low: float, high: float) -> Tensor:
    """Return mean_i [ max(low - d_i, 0) + max(d_i - high, 0) ], d_i = 1 - cos(f_i, c_i); [].

    Samples stay neither too near to the centre of their class, nor too far from it.

    Args:
        features: f, [N, F], what enters the classifier.
        centres: c, [N, F], the mean feature of earlier samples of the same class; a row of NaN where there are none,
            whose sample takes no part.
        low: least cosine distance, 0..2.
        high: largest.

    Source: block E2, the marginal distance constraint of IntraQ (Zhong et al., CVPR 2022).
    """
    known = centres.isfinite().all(1)
    if not known.any():
        return features.sum() * 0
    cosines = torch.nn.functional.cosine_similarity(features[known], centres[known], dim=1)
    distance = 1 - cosines
    return ((low - distance).clamp_min(0) + (distance - high).clamp_min(0)).mean()


class ClassCentres:
    """The mean feature of the finished samples of each class."""

    def __init__(self, classes: int) -> None:
        self._sums: Tensor | None = None
        self._classes = classes
        self._counts = torch.empty(0)

    def add(self, features: Tensor, labels: Tensor) -> None:
        """Count in the features [N, F] of finished samples of the classes `labels` [N]."""
        features = features.detach().float()
        if self._sums is None:
            self._sums = features.new_zeros(self._classes, features.shape[1])
            self._counts = features.new_zeros(self._classes)
        self._sums.index_add_(0, labels, features)
        self._counts += torch.bincount(labels, minlength=self._classes)

    def of(self, labels: Tensor) -> Tensor | None:
        """Return the centre of each label, [N, F], NaN for a class without samples; None before the first."""
        if self._sums is None:
            return None
        return self._sums[labels] / self._counts[labels, None]
