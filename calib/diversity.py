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
    """Return the spectrum of K = U U^T, U the flattened samples of `x` [N, ...] scaled to unit length."""
    rows = torch.nn.functional.normalize(x.flatten(1).double(), dim=1)
    values, vectors = torch.linalg.eigh(rows @ rows.T)
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
