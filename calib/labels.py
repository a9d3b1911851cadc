"""Terms that tie samples to classes, on the teacher's logits z [N, classes] and the samples' classes y [N], int64.

p = softmax(z), p_y the probability of the sample's class.
"""

from __future__ import annotations

import torch
from torch import Tensor

# The share of the samples whose wanted confidence is drawn; the others are wanted at 1.
SOFT_SHARE = 0.5


def hard_cross_entropy(logits: Tensor, labels: Tensor, *, power: float) -> Tensor:
    """Return mean_i (1 - p_y)^power * -log p_y; [].

    The factor lets samples count that the teacher finds hard; the gradient flows through it too. With power 0 it is the
    cross-entropy.

    Source: block B7 (HAST, Li et al., CVPR 2023; used by SynQ, Kim et al., ICLR 2025), B1 with power 0.
    """
    losses = torch.nn.functional.cross_entropy(logits.float(), labels, reduction="none")
    if power == 0:
        return losses.mean()
    difficulty = -torch.expm1(-losses)
    # The root of 0 has no finite slope.
    return (difficulty.clamp_min(1e-6) ** power * losses).mean()


def soft_inception(logits: Tensor, labels: Tensor, wanted: Tensor) -> Tensor:
    """Return mean_i (p_y - t_i)^2, t = `wanted` [N]: samples of every confidence, not of full confidence alone; [].

    Source: block B6, the soft inception loss of IntraQ (Zhong et al., CVPR 2022).
    """
    found = logits.float().softmax(1).gather(1, labels[:, None])[:, 0]
    return (found - wanted).square().mean()


def draw_confidence(count: int, lowest: float, generator: torch.Generator) -> Tensor:
    """Return wanted confidences [count]: uniform from `lowest` to 1 for half of the samples by chance, else 1.

    Source: IntraQ, its code; the paper draws for every sample.
    """
    drawn = lowest + (1 - lowest) * torch.rand(count, generator=generator)
    is_soft = torch.rand(count, generator=generator) < SOFT_SHARE
    return torch.where(is_soft, drawn, torch.ones(count))
