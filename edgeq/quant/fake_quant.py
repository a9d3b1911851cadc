"""Fake quantizers with learned scales: float in, float on the grid out, gradients as in LSQ.

x_hat = s clamp(round(x / s), low, high). Gradients (Esser et al., LSQ, ICLR 2020), u = x / s:
    dx_hat / dx = 1 inside the grid, 0 outside;
    dx_hat / ds = round(u) - u inside, low or high outside.
The parameter is log s, so a scale stays positive and a learning rate is relative (deviation from LSQ, which trains s
itself and needs a gradient scale for it).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from edgeq.core.numerics import largest_scale
from edgeq.core.plan import Grid


class _Round(torch.autograd.Function):
    """Quantize-dequantize; see module."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, low: int, high: int) -> Tensor:
        steps = x / scale
        codes = steps.round().clamp_(low, high)
        ctx.save_for_backward(steps, codes, scale)
        ctx.limits = (low - 0.5, high + 0.5)
        return codes * scale

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None]:
        (grad,) = grads
        steps, codes, scale = ctx.saved_tensors
        low, high = ctx.limits
        inside = (steps >= low) & (steps <= high)
        by_scale = torch.where(inside, codes - steps, codes).mul_(grad)
        if scale.ndim == 0:
            return grad * inside, by_scale.sum(), None, None
        axes = [axis for axis in range(scale.ndim) if scale.shape[axis] == 1]
        return grad * inside, by_scale.sum(axes, keepdim=True), None, None


class FakeQuantizer(nn.Module):
    """One scale (or one a channel) on one grid.

    Attributes:
        grid: the codes.
        log_scale: [] or [C], the trained parameter; kept at or below the scale at which the highest code stands for
            `limit`, where that is given.
        enabled: false passes the input through.
    """

    def __init__(
        self, grid: Grid, scale: Tensor, *, ndim: int = 0, limit: float | None = None
    ) -> None:
        super().__init__()
        self.grid = grid
        self.enabled = True
        self._shape = [1] * ndim
        if grid.axis is not None:
            self._shape[grid.axis] = -1
        self._largest = (
            None if limit is None else torch.from_numpy(largest_scale(limit, high=grid.high))
        )
        self.log_scale = nn.Parameter(scale.detach().float().log())

    def scale(self) -> Tensor:
        """Return the scale, [] or [C], float32."""
        if self._largest is None:
            return self.log_scale.exp()
        self.log_scale.data.clamp_(max=float(self._largest.log()))
        return torch.minimum(self.log_scale.exp(), self._largest)

    def codes(self, x: Tensor) -> Tensor:
        """Return the integer codes of `x` as float32, without gradients."""
        with torch.no_grad():
            return (x / self._broadcast()).round().clamp(self.grid.low, self.grid.high)

    def forward(self, x: Tensor) -> Tensor:
        """Return `x` on the grid."""
        if not self.enabled:
            return x
        apply: Callable[..., Tensor] = _Round.apply
        return apply(x, self._broadcast(), self.grid.low, self.grid.high)

    def _broadcast(self) -> Tensor:
        scale = self.scale()
        return scale if self.grid.axis is None else scale.view(self._shape)
