"""Values that are let through in float, drawn anew in every step: QDrop's quantizers, and its mix of a unit's inputs.

Source: QDrop (Wei et al., ICLR 2022).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from edgeq.quant.fake_quant import FakeQuantizer

# Masks that are cut from one row before it is drawn anew.
CUTS = 64

# Places where a mask can start in its row lie this many values apart: a line of the cache, for aligned reads.
STRIDE = 16

# The least that a row is longer than the masks that are cut from it: twice as many places as cuts, so that multiples of
# the golden ratio fall into different ones.
LEAST_SPARE = 2 * CUTS * STRIDE

# The most that a row is longer than the masks that are cut from it, in values.
SPARE = 2**20

# Of each turn of the golden ratio a multiple falls into the largest gap that those before it have left.
_GOLDEN = (math.sqrt(5) - 1) / 2


class Masks:
    """Draws tensors, float32, that are 1 with a given probability and else 0.

    A mask is cut from a longer row at a place of its own, which costs nothing; the row is drawn anew after `CUTS` of
    them. Within a mask, values are independent. In two masks of one row the same value has two different numbers of
    that row, so these are independent, too; but the one mask is the other one moved along.

    Attributes:
        generator: where numbers come from, and masks lie.
    """

    def __init__(self, generator: torch.Generator) -> None:
        self.generator = generator
        self._rows: dict[float, Tensor] = {}
        self._cut: dict[float, int] = {}

    def restart(self) -> None:
        """Draw new rows from now on, so that the state of the generator alone decides about all later masks."""
        self._rows.clear()
        self._cut.clear()

    def draw(self, shape: Sequence[int], share: float) -> Tensor:
        """Return a mask of `shape` that is 1 with a probability of `share`; it is not to be written to."""
        count = math.prod(shape)
        cut = self._cut.get(share, 0)
        row = self._rows.get(share)
        if row is None or len(row) < count + LEAST_SPARE or cut % CUTS == 0:
            length = count + max(min(count, SPARE), LEAST_SPARE)
            row = self._rows[share] = draw((length,), share, self.generator)
        self._cut[share] = cut + 1
        places = (len(row) - count) // STRIDE
        start = int(cut * _GOLDEN % 1 * places) * STRIDE
        return row[start : start + count].view(tuple(shape))


class DroppedQuantizer(nn.Module):
    """An activation quantizer that lets each value through in float with a probability of 1 - `keep`.

    x_hat = Q(x) where U < keep, else x; U uniform on [0, 1), another one for every value and call (see `Masks`).
    Source: QDrop, equation of its quantization drop; its code calls keep "drop_prob".
    """

    def __init__(self, quantizer: FakeQuantizer, keep: float, masks: Masks) -> None:
        super().__init__()
        self._quantizer = quantizer
        self._keep = keep
        self._masks = masks

    def forward(self, x: Tensor) -> Tensor:
        """Return `x`, part of it on the grid."""
        if self._keep <= 0:
            return x
        chosen = None
        if self._keep < 1:
            chosen = self._masks.draw(x.shape, self._keep).to(x)
        quantized: Tensor = self._quantizer(x, chosen)
        return quantized


def mix(first: Tensor, second: Tensor, share: float, masks: Masks) -> Tensor:
    """Return `first` with a probability of `share`, value by value, else `second`."""
    if share >= 1:
        return first
    if share <= 0:
        return second
    chosen = masks.draw(first.shape, share).to(first)
    return torch.lerp(second, first, chosen)  # where() takes ten times as long on the CPU


def draw(shape: Sequence[int], share: float, generator: torch.Generator) -> Tensor:
    """Return a tensor, float32, that is 1 with a probability of `share`, to the nearest 2^-16, and else 0.

    Of each number that is drawn four values are made, eight where 2^-8 is fine enough, and 64 for a half: its bits.
    """
    bits, kind = (8, torch.int8) if (share * 2**8).is_integer() else (16, torch.int16)
    bits = 1 if share == 0.5 else bits
    count, device = math.prod(shape), generator.device
    numbers = torch.empty(-(-count * bits // 64), dtype=torch.int64, device=device)
    parts = numbers.random_(-(2**63), None, generator=generator).view(kind)
    if bits == 1:
        places = torch.arange(8, dtype=kind, device=device)
        ones = (parts >> places[:, None]).bitwise_and_(1)
        return ones.view(-1)[:count].view(tuple(shape)).float()
    parts = parts[:count].view(tuple(shape))
    half = 2 ** (bits - 1)
    limit = min(round(share * 2**bits) - half, half - 1)
    return torch.lt(parts, limit, out=torch.empty(tuple(shape), device=device))
