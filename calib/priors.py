"""Terms on the pictures alone, [N, C, H, W] in the standard unit: no network is asked."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor
from torch.nn import functional

# Laws' one-dimensional masks: level, edge, spot, wave, ripple.
LAWS = (
    (1.0, 4.0, 6.0, 4.0, 1.0),
    (-1.0, -2.0, 0.0, 2.0, 1.0),
    (-1.0, 0.0, 2.0, 0.0, -1.0),
    (-1.0, 2.0, 0.0, -2.0, 1.0),
    (1.0, -4.0, 6.0, -4.0, 1.0),
)
# TexQ: so many texture elements share a picture's energy, each within this of an equal share.
ELEMENTS = 9
TOLERANCE = 0.015
# The side of the neighbourhood whose mean is taken off before the energies are measured.
NEIGHBOURHOOD = 15


def total_variation(x: Tensor) -> Tensor:
    """Return the sum of the Frobenius norms of the differences to the right, down and along both diagonals; [].

    The norms are over the whole batch, neither squared nor averaged, so the term grows with the root of N.

    Source: block C1 (TV-L2), DeepInversion (Yin et al., CVPR 2020), as DSG's code has it.
    """
    differences = (
        x[..., :, :-1] - x[..., :, 1:],
        x[..., :-1, :] - x[..., 1:, :],
        x[..., :-1, :-1] - x[..., 1:, 1:],
        x[..., 1:, :-1] - x[..., :-1, 1:],
    )
    # A norm has no slope at 0, where a picture is of one colour.
    return torch.stack([(d.square().sum() + 1e-12).sqrt() for d in differences]).sum()


def image_norm(x: Tensor) -> Tensor:
    """Return mean_i ||x_i||_2; []. Source: block C2, DeepInversion, as DSG's code has it."""
    norms: Tensor = torch.linalg.vector_norm(x.flatten(1), dim=1)
    return norms.mean()


def image_statistics(x: Tensor) -> Tensor:
    """Return mean_i sum_c [ m_ic^2 + (w_ic - 1)^2 ] of each picture's own mean m and standard deviation w; [].

    Source: block A11 with mean 0 and standard deviation 1: ZeroQ (Cai et al., CVPR 2020), DSG, Genie (Jeon et al.,
    CVPR 2023). Deviation: biased variances.
    """
    var, mean = torch.var_mean(x.flatten(2), 2, correction=0)
    return (mean.square() + ((var + 1e-6).sqrt() - 1).square()).sum(1).mean()


def texture_energies(x: Tensor) -> Tensor:
    """Return each picture's shares of the 14 rotation-invariant texture energies of Laws, [N, 14]; a row sums to 1.

    On the grey picture less its local mean, E = mean |response| / L1 norm of the 5x5 mask; masks that are each other's
    transpose share one energy, the level-level mask is left out.

    Source: Laws, 1980, as TexQ (Chen et al., NeurIPS 2023) uses it.
    """
    grey = x.mean(1, keepdim=True)
    local = functional.avg_pool2d(
        grey, NEIGHBOURHOOD, 1, NEIGHBOURHOOD // 2, count_include_pad=False
    )
    vectors = torch.tensor(LAWS, device=x.device)
    pairs = list(itertools.combinations_with_replacement(range(len(LAWS)), 2))[1:]
    masks = torch.stack([torch.outer(vectors[a], vectors[b]) for a, b in pairs])
    both = torch.cat([masks, masks.transpose(1, 2)])
    weights = (both / both.abs().sum((1, 2), keepdim=True))[:, None]
    framed = functional.pad(grey - local, (2, 2, 2, 2), mode="replicate")
    energies = functional.conv2d(framed, weights).abs().mean((2, 3))
    merged = energies[:, : len(pairs)] + energies[:, len(pairs) :]
    shares: Tensor = merged / merged.sum(1, keepdim=True).clamp_min(1e-12)
    return shares


def texture_term(x: Tensor) -> Tensor:
    """Return the mean over pictures of sum_m max(0, |e_m - 1/9| - 0.015) over the 9 largest shares e_m; [].

    No texture element is to dominate a picture.

    Source: L_LAWS of TexQ, block C5: a reconstruction. The paper's code was never published; 9 and 0.015 are from a
    summary of the paper.
    """
    largest = texture_energies(x).topk(ELEMENTS, dim=1).values
    return ((largest - 1 / ELEMENTS).abs() - TOLERANCE).clamp_min(0).sum(1).mean()
