"""Fake quantizers with learned scales: float in, float on the grid out, gradients as in LSQ.

x_hat = s clamp(round(x / s), low, high). Gradients (Esser et al., LSQ, ICLR 2020), u = x / s:
    dx_hat / dx = 1 inside the grid, 0 outside;
    dx_hat / ds = round(u) - u inside, low or high outside.
The parameter is log s, so a scale stays positive and a learning rate is relative (deviation from LSQ, which trains s
itself and needs a gradient scale for it).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from edgeq.core.numerics import largest_scale
from edgeq.core.plan import Grid


class _Round(torch.autograd.Function):
    """Quantize-dequantize; see module.

    Nothing is kept for the backward pass but `x` and `x_hat`, which the layers around it keep anyway. Of every term of
    the gradient by s, grad (x_hat - x) / s is left inside the grid and grad x_hat / s outside, so
        s dL/ds = sum(grad x_hat) - sum(inside grad x).
    Where a value is let through (`chosen` is 0) x_hat is x, and it counts as inside: its two terms cancel. 0 lies on
    every grid, and stands for such values when it is asked what is inside.

    s dL/ds is the gradient by log s, and goes there where `log_scale` is given; else dL/ds goes to `scale`.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        log_scale: Tensor | None,
        scale: Tensor,
        low: int,
        high: int,
        chosen: Tensor | None,
    ) -> Tensor:
        made = (x / scale).round_().clamp_(low, high).mul_(scale)
        if chosen is not None:
            made = torch.lerp(x, made, chosen, out=made)
        ctx.save_for_backward(x, made, scale, chosen)
        ctx.limits = (low - 0.5, high + 0.5)
        return made

    @staticmethod
    def backward(
        ctx: Any, *grads: Tensor
    ) -> tuple[Tensor, Tensor | None, Tensor | None, None, None, None]:
        (grad,) = grads
        x, made, scale, chosen = ctx.saved_tensors
        by_x = _inside(grad, x if chosen is None else x * chosen, scale, *ctx.limits)
        _, wants_log, wants_scale, *_ = ctx.needs_input_grad
        if not wants_log and not wants_scale:
            return by_x, None, None, None, None, None
        by_log = _inner(grad, made, scale) - _inner(by_x, x, scale)
        if wants_scale:
            return by_x, None, by_log / scale, None, None, None
        return by_x, by_log.flatten() if by_log.ndim else by_log, None, None, None, None


def _inside(grad: Tensor, x: Tensor, scale: Tensor, low: float, high: float) -> Tensor:
    """Return `grad` where low s < x < high s, and 0 elsewhere."""
    if scale.ndim == 0 and x.device.type == "cpu":  # one pass over memory instead of four
        step = float(scale)
        inside: Tensor = torch.ops.aten.hardtanh_backward(grad, x, low * step, high * step)
        return inside
    return grad * ((x > low * scale) & (x < high * scale))


def _inner(a: Tensor, b: Tensor, scale: Tensor) -> Tensor:
    """Return the sum of a b over the elements that have one scale, shaped as `scale`."""
    if scale.ndim == 0 and a.dtype == torch.float32:
        return torch.dot(a.reshape(-1), b.reshape(-1))
    if scale.ndim == 0:
        return (a * b).sum(dtype=torch.float32)
    axes = [axis for axis in range(scale.ndim) if scale.shape[axis] == 1]
    return (a * b).sum(axes, keepdim=True)


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
        largest = None if limit is None else torch.from_numpy(largest_scale(limit, high=grid.high))
        self._largest: Tensor | None
        self.register_buffer("_largest", largest, persistent=False)
        self._largest_log = math.inf if largest is None else float(largest.log())
        self.log_scale = nn.Parameter(scale.detach().float().log())

    def scale(self) -> Tensor:
        """Return the scale, [] or [C], float32."""
        if self._largest is None:
            return self.log_scale.exp()
        self.log_scale.data.clamp_(max=self._largest_log)
        scale = self.log_scale.exp()
        # The exponential of the largest logarithm may round up. The gradient goes past the minimum: through it, a scale
        # at its limit would get none, and stay there.
        return scale + (torch.minimum(scale, self._largest) - scale).detach()

    def codes(self, x: Tensor) -> Tensor:
        """Return the integer codes of `x` as float32, without gradients."""
        with torch.no_grad():
            return (x / self._broadcast()).round().clamp(self.grid.low, self.grid.high)

    def forward(self, x: Tensor, chosen: Tensor | None = None) -> Tensor:
        """Return `x` on the grid; where `chosen`, shaped and typed as `x`, is given and 0, as it is."""
        if not self.enabled:
            return x
        apply: Callable[..., Tensor] = _Round.apply
        low, high = self.grid.low, self.grid.high
        if self._largest is not None:
            return apply(x, None, self._broadcast(), low, high, chosen)
        with torch.no_grad():
            scale = self._broadcast()
        return apply(x, self.log_scale, scale, low, high, chosen)

    def _broadcast(self) -> Tensor:
        scale = self.scale()
        return scale if self.grid.axis is None else scale.view(self._shape)
