"""Values of tensors for every sample, on disk: memory does not grow with the number of samples."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx


class Features:
    """The values of one tensor, [N, ...], in a memory-mapped file of float32.

    They come back in the type, and on the device, that they had.
    """

    def __init__(self, path: Path, batches: Iterable[Tensor], count: int) -> None:
        """Write the values of `count` samples, which come batch by batch, to `path`."""
        self._path = path
        file: NDArray[np.float32] | None = None
        done = 0
        for batch in batches:
            if file is None:
                shape = (count, *batch.shape[1:])
                file = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=shape)
            file[done : done + len(batch)] = batch.detach().float().cpu().numpy()
            self._dtype, self._device = batch.dtype, batch.device
            done += len(batch)
        assert file is not None
        self._file = file

    def __len__(self) -> int:
        return len(self._file)

    def pick(self, index: Tensor) -> Tensor:
        """Return the rows `index` as a tensor of their own."""
        return torch.from_numpy(self._file[index.numpy()]).to(self._device, self._dtype)

    def batches(self, size: int) -> Iterable[Tensor]:
        """Yield all rows in their order, `size` at a time."""
        for start in range(0, len(self), size):
            rows = np.array(self._file[start : start + size])
            yield torch.from_numpy(rows).to(self._device, self._dtype)

    def discard(self) -> None:
        """Delete the file."""
        self._path.unlink()


class FeatureStore:
    """Makes `Features` in a folder.

    Args:
        folder: for the files; the caller deletes it.
        batch: samples that are computed together.
    """

    def __init__(self, folder: Path, batch: int) -> None:
        self._folder = folder
        self._batch = batch
        self._made = 0

    def put(self, x: Tensor) -> Features:
        """Return `x` [N, ...] as features, float32."""
        batches = (rows.float() for rows in torch.split(x, self._batch))
        return Features(self._next(), batches, len(x))

    def run(self, module: fx.GraphModule, inputs: Sequence[Features]) -> Features:
        """Return the first output of `module` for all samples of `inputs`."""

        def outputs() -> Iterable[Tensor]:
            with torch.no_grad():
                for rows in zip(*(item.batches(self._batch) for item in inputs), strict=True):
                    result: Any = module(*rows)
                    yield result[0]

        return Features(self._next(), outputs(), len(inputs[0]))

    def _next(self) -> Path:
        self._made += 1
        return self._folder / f"{self._made}.npy"
