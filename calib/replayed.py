"""The network's terms of the loss with their gradient by the samples, as one step that a GPU can replay.

Entry: `ReplayedTerms`. What a CUDA graph cannot hold stays outside: views that move by chance, and the spectrum of the
batch, whose eigenvalues are found with the host's help.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from calib.problem import Wanted
from edgeq.teacher.replay import Recorder, Replay


class ReplayedTerms:
    """Weighs samples as `weigh` does, whose kernels are recorded; the terms that it returns may only be added up."""

    def __init__(
        self, weigh: Callable[[Sequence[Tensor], Wanted], dict[str, Tensor]], recorder: Recorder
    ) -> None:
        """Record nothing yet.

        Args:
            weigh: of samples, one tensor an input, and what they are to be without centres; makes the same terms at
                every call, each [].
            recorder: of the GPU.
        """
        self._weigh = weigh
        self._replay = Replay(self._step, None, recorder)
        self._inputs = 0
        self._names: list[str] = []

    def __call__(self, x: Sequence[Tensor], wanted: Wanted) -> dict[str, Tensor]:
        """Return the terms of samples `x`."""
        self._inputs = len(x)
        given = [wanted.labels] if wanted.confidence is None else [wanted.labels, wanted.confidence]
        values, *slopes = self._replay([*(item.detach() for item in x), *given])
        apply: Callable[..., Tensor] = _Weighed.apply
        return dict(zip(self._names, apply(values, slopes, *x).unbind(), strict=True))

    def _step(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """Return the terms, [T], and the gradient of their sum by each input."""
        x = [item.detach().requires_grad_(True) for item in inputs[: self._inputs]]
        labels, *confidence = inputs[self._inputs :]
        wanted = Wanted(labels=labels, confidence=confidence[0] if confidence else None)
        terms = self._weigh(x, wanted)
        self._names = list(terms)
        if not terms:
            return [x[0].new_empty(0), *map(torch.zeros_like, x)]
        values = torch.stack(list(terms.values()))
        slopes = torch.autograd.grad(values.sum(), x, allow_unused=True, materialize_grads=True)
        return [values.detach(), *slopes]


class _Weighed(torch.autograd.Function):
    """Terms whose gradient is known: of their sum, so that every one of them has to be given the same."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, slopes: Sequence[Tensor], *_: Tensor) -> Tensor:
        ctx.slopes = slopes
        return values.clone()

    @staticmethod
    def backward(ctx: Any, by_values: Tensor) -> tuple[Tensor | None, ...]:
        return None, None, *(by_values[0] * slope for slope in ctx.slopes)
