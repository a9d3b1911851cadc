"""The loop that makes one batch of samples: show, weigh, step. Loops J1 and J3 differ in their variables alone."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from calib.problem import SynthesisProblem
from calib.terms import Terms
from calib.variables import start_variables
from calib.view import View
from edgeq.core.errors import CalibError
from edgeq.core.progress import Progress
from edgeq.core.recipes import SynthesisSpec
from edgeq.core.seeds import derive_seed


class Loop:
    """One run over all batches."""

    def __init__(
        self, problem: SynthesisProblem, spec: SynthesisSpec, terms: Terms, *, seed: int
    ) -> None:
        self._problem = problem
        self._spec = spec
        self._seed = seed
        self._terms = terms
        self._device = problem.compute.device
        self._views = [View(spec, own, self._device) for own in problem.inputs]

    def run(
        self, batch: int, labels: Tensor, progress: Progress
    ) -> tuple[list[Tensor], list[dict[str, float]]]:
        """Return the finished samples of one batch, one tensor an input, and the terms at each iteration.

        Labels [N] and samples lie on the CPU.
        """
        generator = torch.Generator().manual_seed(
            derive_seed(self._seed, "synthesize", "pixels", str(batch))
        )
        variables = start_variables(
            self._spec, self._problem.inputs, self._views, generator, self._device
        )
        labels = labels.to(self._device)
        wanted = self._terms.want(batch, labels)
        history: list[dict[str, float]] = []
        for _ in range(self._spec.iterations):
            pictures = variables.pictures()
            shown = [view.show(x, generator) for view, x in zip(self._views, pictures, strict=True)]
            try:
                terms = self._terms.weigh(shown, wanted)
            except torch.linalg.LinAlgError as error:  # type: ignore[attr-defined]  # of NaN or infinity
                raise _ran_away("its spectrum cannot be found") from error
            loss = torch.stack(list(terms.values())).sum()
            variables.step(loss)
            told, row = _tell(loss, terms, pictures)
            history.append(row)
            progress.advance(loss=told)
        with torch.no_grad():
            pictures = variables.pictures()
            samples = [view.legal(x) for view, x in zip(self._views, pictures, strict=True)]
        samples = [x.detach().cpu() for x in samples]
        if not all(bool(x.isfinite().all()) for x in samples):
            raise _ran_away("NaN or infinity in the samples")
        self.keep(samples, labels)
        return samples, history

    def keep(self, samples: Sequence[Tensor], labels: Tensor) -> None:
        """Take finished samples, one tensor an input, and their labels [N] into account for later batches."""
        shown = [x.to(self._device) for x in samples]
        self._terms.keep(shown, labels.to(self._device))


def _tell(
    loss: Tensor, terms: dict[str, Tensor], pixels: Sequence[Tensor]
) -> tuple[float, dict[str, float]]:
    """Return the loss and its terms as numbers, read at once: a GPU is waited for at every reading.

    Raises:
        CalibError: if a step gave or left something that the next one cannot start from.
    """
    found = [loss, *terms.values(), *(x.isfinite().all() for x in pixels)]
    told, *figures = torch.stack([item.detach().float() for item in found]).tolist()
    row = dict(zip(terms, figures, strict=False))
    if all(map(math.isfinite, row.values())) and all(figures[len(terms) :]):
        return told, row
    raise _ran_away(str(row))


def _ran_away(found: str) -> CalibError:
    return CalibError(
        f"the loss of the synthesis is no longer finite: {found}",
        why="the pixels have run away from what the teacher can be evaluated on, or its values overflow float32",
        mend="lower --set synthesis.learning_rate (and synthesis.generator_rate, of recipes with a generator), or try "
        "another --seed",
    )
