"""Batches of training: samples picked by chance, and augmented. One generator decides, so its state is all there is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from edgeq.core.recipes import TrainingSpec
from edgeq.core.specs import InputSpec, Layout
from edgeq.quant.augment import augment


class Batches:
    """Batches without end: permutations of all samples, one after the other, none dropped."""

    def __init__(self, count: int, batch: int, seed: int) -> None:
        """Begin the first permutation of `count` samples; `seed` says which."""
        self._count = count
        self._size = min(batch, count)
        self._generator = torch.Generator().manual_seed(seed)
        self._pool = torch.empty(0, dtype=torch.int64)

    def pick(self) -> Tensor:
        """Return the samples of the next batch: [batch], int64."""
        while len(self._pool) < self._size:
            more = torch.randperm(self._count, generator=self._generator)
            self._pool = torch.cat([self._pool, more])
        index, self._pool = self._pool[: self._size], self._pool[self._size :]
        return index

    def show(
        self, x: Sequence[Tensor], inputs: Sequence[InputSpec], training: TrainingSpec
    ) -> list[Tensor]:
        """Return what the networks are shown of a batch `x`, one tensor an input: pictures are augmented."""
        return [self._augmented(a, own, training) for a, own in zip(x, inputs, strict=True)]

    def state(self) -> dict[str, NDArray[Any]]:
        """Return what decides about all later batches."""
        return {"generator": self._generator.get_state().numpy(), "pool": self._pool.numpy()}

    def restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Go on from a `state`."""
        self._generator.set_state(torch.from_numpy(state["generator"]))
        self._pool = torch.from_numpy(state["pool"])

    def _augmented(self, x: Tensor, own: InputSpec, training: TrainingSpec) -> Tensor:
        if own.layout is Layout.NCHW:
            return augment(x, training, self._generator)
        if own.layout is Layout.NHWC:
            return augment(x.permute(0, 3, 1, 2), training, self._generator).permute(0, 2, 3, 1)
        return x
