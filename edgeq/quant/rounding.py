"""Learned rounding: each weight is rounded down or up, whichever serves its unit's output best.

W_soft = s clamp(B + h(V), low, high), with the base B = floor(W / s0) frozen at the first scale s0. While V is
learned, h lies between 0 and 1; afterwards h >= 0.5 rounds up (`SoftRounding.codes`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

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
    """Return the sum over all weights of 1 - |2 h - 1|^beta, beta > 1, which is 0 where every h is 0 or 1.

    Source: AdaRound, its second term.
    """
    apply: Callable[..., Tensor] = _Regulariser.apply
    return apply(h, beta)


class _Regulariser(torch.autograd.Function):
    """See `rounding_regulariser`. The one power that is taken, |2 h - 1|^(beta - 1), gives value and gradient."""

    @staticmethod
    def forward(ctx: Any, h: Tensor, beta: float) -> Tensor:
        x = torch.mul(h, 2).sub_(1)
        slope = x.abs().pow_(beta - 1).copysign_(x)
        ctx.save_for_backward(slope)
        ctx.beta = beta
        return torch.addcmul(x.new_ones(()), x, slope, value=-1).sum()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (slope,) = ctx.saved_tensors
        return slope * (grads[0] * (-2 * ctx.beta)), None


def beta_at(share: float, *, start: float, end: float, warmup: float) -> float | None:
    """Return the regulariser's exponent when `share` of the steps is done; None during the warm-up, when it is off.

    beta falls linearly from `start` at the end of the warm-up to `end`. Source: the released code of BRECQ, QDrop,
    Genie and PD-Quant (AIMET's AdaRound falls on a cosine).
    """
    if share < warmup:
        return None
    return end + (start - end) * max(0.0, 1 - (share - warmup) / (1 - warmup))


class _Soften(torch.autograd.Function):
    """s clamp(B + h(V), low, high), and h(V): one node of the graph in the place of ten.

    `free` is 1 where B and B + 1 are both on the grid, else 0: there the code stays, whatever V is.
    """

    @staticmethod
    def forward(
        ctx: Any, v: Tensor, scale: Tensor, base: Tensor, free: Tensor, low: int, high: int
    ) -> tuple[Tensor, Tensor]:
        share = v.sigmoid()
        stretched = torch.mul(share, ZETA - GAMMA).add_(GAMMA)
        up = stretched.clamp(0, 1)
        codes = (base + up).clamp_(low, high)
        ctx.save_for_backward(share, stretched, codes, scale, free)
        return codes * scale, up

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor | None, None, None, None, None]:
        by_weight, by_up = grads
        share, stretched, codes, scale, free = ctx.saved_tensors
        by_scale = None
        if ctx.needs_input_grad[1]:
            by_scale = (by_weight * codes).sum_to_size(scale.shape)
        by_up = torch.addcmul(by_up, by_weight * scale, free)
        # The limits themselves count as inside: where a weight is 0, h starts there.
        by_up = torch.ops.aten.hardtanh_backward(by_up, stretched, -1e-12, 1 + 2**-23)
        by_v = torch.ops.aten.sigmoid_backward(by_up, share).mul_(ZETA - GAMMA)
        return by_v, by_scale, None, None, None, None


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
            grid = quantizer.grid
            self._free = ((self._base >= grid.low) & (self._base < grid.high)).to(weight)
            self.v = nn.Parameter(inverse_rectified_sigmoid(steps - self._base))

    def forward(self, _: Tensor) -> Tensor:
        """Return the softly rounded weight."""
        grid = self._quantizer.grid
        apply: Callable[..., tuple[Tensor, Tensor]] = _Soften.apply
        weight, self._up = apply(self.v, self._scale(), self._base, self._free, grid.low, grid.high)
        return weight

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


def cosine(share: float) -> float:
    """Return the factor of a rate that falls from 1 to 0 on a cosine, when `share` of the steps is done."""
    return 0.5 * (1 + math.cos(math.pi * share))
