"""Threads in the place of the processes of one run: what they exchange is exchanged, and nothing else differs."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor

from edgeq.teacher.world import World


class _Table:
    """Where every thread lays its value, and takes those of all."""

    def __init__(self, size: int) -> None:
        self.barrier = threading.Barrier(size, timeout=60)
        self.values: list[Any] = [None] * size


class _Link:
    """One thread's way to the table."""

    def __init__(self, table: _Table, rank: int) -> None:
        self._table = table
        self._rank = rank

    def gather(self, value: Any) -> list[Any]:
        self._table.values[self._rank] = value
        self._table.barrier.wait()
        found = list(self._table.values)
        self._table.barrier.wait()
        return found

    def add(self, x: Tensor) -> Tensor:
        return torch.stack(self.gather(x)).sum(0)

    def tell(self, value: Any) -> Any:
        return self.gather(value)[0]


def run_together(size: int, work: Callable[[World], Any]) -> list[Any]:
    """Return what `work` gives in each of `size` threads, by rank; the first one's fault is raised."""
    table = _Table(size)

    def run(rank: int) -> Any:
        try:
            return work(World(_Link(table, rank), rank=rank, size=size))
        except BaseException:
            table.barrier.abort()
            raise

    with ThreadPoolExecutor(size) as pool:
        return [future.result() for future in [pool.submit(run, rank) for rank in range(size)]]
