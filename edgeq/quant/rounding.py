"""Learned rounding: each weight is rounded down or up, whichever serves its unit's output best.

W_soft = s clamp(B + h(V), low, high), with the base B = floor(W / s0) frozen at the first scale s0. While V is
learned, h lies between 0 and 1; afterwards h >= 0.5 rounds up (`SoftRounding.codes`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from edgeq.quant.fake_quant import FakeQuantizer

# Stretch of the rectified sigmoid (AdaRound).
ZETA, GAMMA = 1.1, -0.1


def rectified_sigmoid(v: Tensor) -> Tensor:
    """Return h(V) = clamp(sigmoid(V) (zeta - gamma) + gamma, 0, 1).

    Source: AdaRound (Nagel et al., ICML 2020), zeta = 1.1, gamma = -0.1.
    """
    return (v.sigmoid() * (ZETA - GAMMA) + GAMMA).clamp(0, 1)


def inverse_rectified_sigmoid(share: Tensor) -> Tensor:
    """Return the V with h(V) = `share`, which lies in [0, 1)."""
    return -((ZETA - GAMMA) / (share - GAMMA) - 1).log()


def rounding_regulariser(h: Tensor, beta: float) -> Tensor:
    """Return the sum over all weights of 1 - |2 h - 1|^beta, which is 0 where every h is 0 or 1.

    Source: AdaRound, its second term.
    """
    return (1 - (2 * h - 1).abs().pow(beta)).sum()


def beta_at(share: float, *, start: float, end: float, warmup: float) -> float | None:
    """Return the regulariser's exponent when `share` of the steps is done; None during the warm-up, when it is off.

    beta falls linearly from `start` at the end of the warm-up to `end`. Source: the released code of BRECQ, QDrop,
    Genie and PD-Quant (AIMET's AdaRound falls on a cosine).
    """
    if share < warmup:
        return None
    return end + (start - end) * max(0.0, 1 - (share - warmup) / (1 - warmup))


class SoftRounding(nn.Module):
    """Takes the place of a weight's quantizer while its rounding is learned; what it is called with is not looked at.

    Gradients: d W / d V = s h'(V) inside the grid; d W / d s = the whole (soft) code, as in Genie-M, whose frozen base
    keeps the codes where they are while s moves.

    Attributes:
        v: shape of the weight, the learned parameter; at first W_soft = W inside the grid.
    """

    def __init__(self, quantizer: FakeQuantizer, weight: Tensor) -> None:
        super().__init__()
        self._quantizer = quantizer
        self._shape = [1] * weight.ndim
        if quantizer.grid.axis is not None:
            self._shape[quantizer.grid.axis] = -1
        with torch.no_grad():
            steps = weight / self._scale()
            self._base = steps.floor()
            self.v = nn.Parameter(inverse_rectified_sigmoid(steps - self._base))

    def forward(self, _: Tensor) -> Tensor:
        """Return the softly rounded weight."""
        self._up = rectified_sigmoid(self.v)
        return self._on_grid(self._up) * self._scale()

    def regulariser(self, beta: float) -> Tensor:
        """Return `rounding_regulariser` of its weights, as they were in the last forward pass."""
        return rounding_regulariser(self._up, beta)

    def codes(self) -> Tensor:
        """Return the final codes, float32 on the grid: up where h >= 0.5."""
        with torch.no_grad():
            return self._on_grid((rectified_sigmoid(self.v) >= 0.5).float())

    def hard(self) -> Tensor:
        """Return the weight with its final codes."""
        with torch.no_grad():
            return self.codes() * self._scale()

    def _on_grid(self, up: Tensor) -> Tensor:
        grid = self._quantizer.grid
        return (self._base + up).clamp(grid.low, grid.high)

    def _scale(self) -> Tensor:
        return self._quantizer.scale().view(self._shape)


class DroppedQuantizer(nn.Module):
    """An activation quantizer that lets each value through in float with a probability of 1 - `keep`.

    x_hat = Q(x) where U < keep, else x; U uniform on [0, 1), drawn anew for every value and call.
    Source: QDrop (Wei et al., ICLR 2022), equation of its quantization drop; its code calls keep "drop_prob".
    """

    def __init__(self, quantizer: FakeQuantizer, keep: float, generator: torch.Generator) -> None:
        super().__init__()
        self._quantizer = quantizer
        self._keep = keep
        self._generator = generator

    def forward(self, x: Tensor) -> Tensor:
        """Return `x`, part of it on the grid."""
        if self._keep <= 0:
            return x
        chosen = None
        if self._keep < 1:
            chosen = draw(x.shape, self._keep, self._generator).to(x)
        quantized: Tensor = self._quantizer(x, chosen)
        return quantized


def mix(first: Tensor, second: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Return `first` with a probability of `share`, value by value, else `second`; drawn where `generator` lies."""
    if share >= 1:
        return first
    if share <= 0:
        return second
    chosen = draw(first.shape, share, generator).to(first)
    return torch.lerp(second, first, chosen)  # where() takes ten times as long on the CPU


def draw(shape: Sequence[int], share: float, generator: torch.Generator) -> Tensor:
    """Return a tensor, float32, that is 1 with a probability of `share`, to the nearest 2^-16, and else 0.

    Of each number that is drawn four values are made, or eight where 2^-8 is fine enough; the comparison writes what it
    finds as floats.
    """
    bits, kind = (8, torch.int8) if (share * 2**8).is_integer() else (16, torch.int16)
    count, device = math.prod(shape), generator.device
    numbers = torch.empty(-(-count * bits // 64), dtype=torch.int64, device=device)
    numbers.random_(-(2**63), None, generator=generator)
    parts = numbers.view(kind)[:count].view(tuple(shape))
    half = 2 ** (bits - 1)
    limit = min(round(share * 2**bits) - half, half - 1)
    return torch.lt(parts, limit, out=torch.empty(tuple(shape), device=device))


def cosine(share: float) -> float:
    """Return the factor of a rate that falls from 1 to 0 on a cosine, when `share` of the steps is done."""
    return 0.5 * (1 + math.cos(math.pi * share))
