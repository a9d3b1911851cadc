"""Terms that keep the samples of a batch unlike each other."""

from __future__ import annotations

import torch
from torch import Tensor


def spectral_gram_term(x: Tensor, noise: Tensor) -> Tensor:
    """Return how far the batch's Gram spectrum is from that of uncorrelated noise; [].

    With U the rows of the batch scaled to unit length and K = U U^T: eigenvalues lambda and eigenvectors V of K, and
    lambda*, V* of the same matrix of `noise`, both ascending:
    1e-4 mean (lambda - lambda*)^2 + sum_j lhat_j (1 - |<V_j, V*_j>|) / N, lhat = lambda* scaled to 0..1.

    Args:
        x: [N, ...], the batch.
        noise: [N, ...], a fresh N(0, 1) batch of the same shape.

    Source: spatial correlation inhibition of DSG (Qin et al., TPAMI 2023), block E1. Deviations: symmetric
    eigendecomposition in float64, sorted; the inner product's absolute value, since an eigenvector's sign is
    arbitrary; written as a distance, so that its minimum is 0.
    """
    values, vectors = torch.linalg.eigh(_gram(x))
    wanted, directions = torch.linalg.eigh(_gram(noise))
    weights = (wanted - wanted[0]) / (wanted[-1] - wanted[0]).clamp_min(1e-12)
    alignment = (vectors * directions).sum(0).abs()
    return (1e-4 * (values - wanted).square().mean() + (weights * (1 - alignment)).mean()).float()


def _gram(x: Tensor) -> Tensor:
    rows = torch.nn.functional.normalize(x.flatten(1).double(), dim=1)
    return rows @ rows.T
