"""The pixel loop J1 of the methods document: the samples themselves are what is optimised."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from calib.problem import SynthesisProblem
from calib.terms import Terms
from calib.unoptimised import initial_pixels
from calib.view import View
from edgeq.core.errors import CalibError
from edgeq.core.progress import Progress
from edgeq.core.recipes import SynthesisSpec
from edgeq.core.seeds import derive_seed


class PixelLoop:
    """One run of the pixel loop over all batches."""

    def __init__(self, problem: SynthesisProblem, spec: SynthesisSpec, *, seed: int) -> None:
        self._problem = problem
        self._spec = spec
        self._seed = seed
        self._terms = Terms(problem, spec, seed=seed)
        self._views = [View(spec, own) for own in problem.inputs]

    def labels(self, batch: int) -> Tensor:
        """Return the classes of one batch, taken in turn: [batch], int64."""
        start = batch * self._spec.batch
        return torch.arange(start, start + self._spec.batch) % (self._problem.classes or 1)

    def run(
        self, batch: int, labels: Tensor, progress: Progress
    ) -> tuple[list[Tensor], list[dict[str, float]]]:
        """Return the finished samples of one batch, one tensor an input, and the terms at each iteration."""
        spec = self._spec
        generator = torch.Generator().manual_seed(
            derive_seed(self._seed, "synthesize", "pixels", str(batch))
        )
        pixels = [
            initial_pixels(spec, own, generator).requires_grad_(True)
            for own in self._problem.inputs
        ]
        optimizer = torch.optim.Adam(pixels, lr=spec.learning_rate, betas=(0.9, 0.99))
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, spec.iterations)
        history: list[dict[str, float]] = []
        for _ in range(spec.iterations):
            shown = [view.show(x, generator) for view, x in zip(self._views, pixels, strict=True)]
            terms = self._terms.weigh(shown, labels)
            loss = torch.stack(list(terms.values())).sum()
            optimizer.zero_grad(set_to_none=True)
            torch.autograd.backward(loss)
            optimizer.step()
            schedule.step()
            history.append({name: float(value.detach()) for name, value in terms.items()})
            _require_finite(pixels, history[-1])
            progress.advance(loss=loss.item())
        samples = [view.legal(x.detach()) for view, x in zip(self._views, pixels, strict=True)]
        return samples, history


def _require_finite(pixels: Sequence[Tensor], terms: dict[str, float]) -> None:
    """Raise if a step gave or left something that the next one cannot start from."""
    if all(map(math.isfinite, terms.values())) and all(x.isfinite().all() for x in pixels):
        return
    raise CalibError(
        f"the loss of the synthesis is no longer finite: {terms}",
        why="the pixels have run away from what the teacher can be evaluated on, or its values overflow float32",
        mend="lower --set synthesis.learning_rate, or try another --seed",
    )
