"""Values of tensors for every sample, on disk: memory does not grow with the number of samples."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx

from edgeq.core.errors import InputError
from edgeq.core.files import NO_ROOM


class Features:
    """The values of one tensor, [N, ...], in a memory-mapped file of float32.

    They come back in the type, and on the device, that they had. The file lies in the folder for temporary files and
    has no name there: its room is given back with the object, and when a process ends, however that ends.
    """

    def __init__(self, batches: Iterable[Tensor], count: int) -> None:
        """Write the values of `count` samples, which come batch by batch.

        Raises:
            InputError: if the folder for temporary files has no room for them.
        """
        file: NDArray[np.float32] | None = None
        done = 0
        for batch in batches:
            if file is None:
                shape = (count, *batch.shape[1:])
                with tempfile.TemporaryFile() as nameless:  # the mapping keeps it
                    _reserve(nameless.fileno(), 4 * math.prod(shape))
                    file = np.memmap(nameless, np.float32, mode="w+", shape=shape)
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


def _reserve(descriptor: int, size: int) -> None:
    """Take the room of a file at once: a mapped page that finds none later ends the process without a word (SIGBUS)."""
    if not hasattr(os, "posix_fallocate"):  # macOS
        return
    try:
        os.posix_fallocate(descriptor, 0, size)
    except OSError as error:
        if error.errno not in NO_ROOM:  # a file system that takes no room in advance
            return
        raise InputError(
            f"no room for {size / 2**20:.0f} MB of features in {tempfile.gettempdir()}",
            why=f"what a unit reads and makes lies in the folder for temporary files ({error.strerror})",
            mend="free some space there, set TMPDIR to another folder, or take a smaller --set synthesis.samples",
        ) from error


class FeatureStore:
    """Makes `Features`.

    Args:
        batch: samples that are computed together.
    """

    def __init__(self, batch: int) -> None:
        self._batch = batch

    def put(self, x: Tensor) -> Features:
        """Return `x` [N, ...] as features, float32."""
        batches = (rows.float() for rows in torch.split(x, self._batch))
        return Features(batches, len(x))

    def run(self, module: fx.GraphModule, inputs: Sequence[Features]) -> Features:
        """Return the first output of `module` for all samples of `inputs`."""

        def outputs() -> Iterable[Tensor]:
            with torch.no_grad():
                for rows in zip(*(item.batches(self._batch) for item in inputs), strict=True):
                    result: Any = module(*rows)
                    yield result[0]

        return Features(outputs(), len(inputs[0]))
