"""Transforms of training samples that a picture survives."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from edgeq.core.recipes import TrainingSpec


def augment(x: Tensor, spec: TrainingSpec, generator: torch.Generator) -> Tensor:
    """Return a changed copy of the channels-first pictures `x` [N, C, H, W], drawn from `generator`.

    Half of them are mirrored, all are shifted by one offset (edges reflected), and each is mixed with up to
    `spec.mix` of another one. None of the three adds high frequencies, so samples that were low-passed when they were
    made stay so (SynQ filters here instead, since its stored samples are not filtered).
    """
    count, _, height, width = x.shape
    if spec.flip:
        mirrored = torch.rand(count, generator=generator) < 0.5
        x = torch.where(mirrored.view(-1, 1, 1, 1).to(x.device), x.flip(-1), x)
    shift = min(spec.shift, height - 1, width - 1)
    if shift > 0:
        down, right = torch.randint(0, 2 * shift + 1, (2,), generator=generator).tolist()
        padded = F.pad(x, (shift, shift, shift, shift), mode="reflect")
        x = padded[..., down : down + height, right : right + width]
    if spec.mix > 0:
        partner = torch.randperm(count, generator=generator)
        share = torch.rand(count, 1, 1, 1, generator=generator).to(x.device) * spec.mix
        x = x * (1 - share) + x[partner] * share
    return x
