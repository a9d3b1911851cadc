"""What the student is trained to match. Every reduction is stated.

Shapes: logits [N, K] (K classes); features and maps [N, C, H, W]; labels [N] int64.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def distillation(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Return T^2 KL(softmax(teacher / T) || softmax(student / T)), sum over classes, mean over samples.

    Source: knowledge distillation with the "batchmean" reduction of IntraQ and SynQ (their factor alpha is the
    recipe's weight).
    """
    return temperature**2 * F.kl_div(
        F.log_softmax(student / temperature, 1),
        F.log_softmax(teacher / temperature, 1),
        log_target=True,
        reduction="batchmean",
    )


def mean_square(teacher: Tensor) -> Tensor:
    """Return mean teacher^2 over all elements, [], without gradient."""
    with torch.no_grad():
        norm: Tensor = torch.linalg.vector_norm(teacher, dtype=_wide(teacher))
        return norm.square() / teacher.numel()


def relative_error(student: Tensor, teacher: Tensor, energy: Tensor | None = None) -> Tensor:
    """Return mean (student - teacher)^2 / mean teacher^2 over all elements; no gradient reaches the teacher.

    `energy` [] takes the place of mean teacher^2 where these are a part of the batch.
    """
    energy = (mean_square(teacher) if energy is None else energy).clamp_min(1e-12)
    error: Tensor = F.mse_loss(student, teacher.detach()) / energy
    return error


def feature_alignment(
    student: Sequence[Tensor],
    teacher: Sequence[Tensor],
    energies: Sequence[Tensor | None] | None = None,
) -> Tensor:
    """Return the mean over block outputs of `relative_error`.

    Source: feature alignment of HAST / SynQ, on the features themselves (deviation: they compare channel attention).
    """
    triples = zip(student, teacher, energies or [None] * len(teacher), strict=True)
    return torch.stack([relative_error(*item) for item in triples]).mean()


def easy_cross_entropy(
    student: Tensor, teacher: Tensor, labels: Tensor, threshold: float
) -> Tensor:
    """Return the cross-entropy with hard labels, summed over easy samples and divided by N.

    A sample is easy where its difficulty 1 - softmax(teacher)[label] is at most `threshold`; difficult samples keep
    the teacher's soft labels of `distillation` alone. Source: SynQ (Kim et al., ICLR 2025).
    """
    confidence = teacher.softmax(1).gather(1, labels[:, None])[:, 0]
    easy = (1 - confidence) <= threshold
    losses = F.cross_entropy(student, labels, reduction="none")
    return (losses * easy).sum() / len(labels)


def activation_map(logits: Tensor, features: Tensor) -> Tensor:
    """Return each sample's class activation map, scaled to 0..1: [N, H, W].

    S = ReLU(sum_k alpha_k A^k), alpha_k = max(mean over positions of d score / d A^k, 0), score the logit of the
    network's own top class. alpha is a constant of the loss, the gradient reaches the network through A.

    Args:
        logits: must depend on `features` through autograd.
        features: A.

    Source: Grad-CAM as used by SynQ. Deviation: A is the last feature map before the spatial axes end, not the last
    convolution in module order, which is degenerate where the classifier is a 1x1 convolution.
    """
    score = logits.amax(1).sum()
    (gradient,) = torch.autograd.grad(score, features, retain_graph=True)
    alpha = gradient.mean((2, 3), keepdim=True, dtype=_wide(features)).clamp_min(0)
    maps = (alpha * features).sum(1).relu().flatten(1)
    low = maps.amin(1, keepdim=True)
    span = (maps.amax(1, keepdim=True) - low).clamp_min(1e-10)
    return ((maps - low) / span).view(features.shape[0], *features.shape[2:])


def activation_map_alignment(student_map: Tensor, teacher_map: Tensor) -> Tensor:
    """Return the mean squared difference of two maps [N, H, W]. Source: SynQ, at the maps' own resolution."""
    return (student_map - teacher_map).square().mean()


def _wide(x: Tensor) -> torch.dtype:
    """Return the type in which sums over `x` are made: float32 for half precision, else its own."""
    return torch.promote_types(x.dtype, torch.float32)
