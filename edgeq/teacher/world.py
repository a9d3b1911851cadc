"""The processes of one build: one alone, or those that torchrun started. They share batches, sums and what rank 0 says.

Entry: `join`. The processes are brought together by Lightning Fabric, which knows the launchers and the backends (NCCL
between GPUs, gloo between CPUs). Gradients are added here, after a whole backward pass: activation maps ask autograd
twice, which wrappers that add them on the way do not allow.
"""

from __future__ import annotations

import atexit
import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

from edgeq.core.errors import BuildError
from edgeq.core.optional import require

T = TypeVar("T")

# How long a process waits for another one: a reconstruction is done by rank 0 alone. A process that has died is noticed
# at once, by its launcher.
PATIENCE = timedelta(days=7)

# Seconds in which the launcher ends a process that has lost another one, and tells which of the two was first.
MERCY_S = 10.0


class Link(Protocol):
    """What processes exchange; each function is called by all of them, in the same order."""

    def add(self, x: Tensor) -> Tensor:
        """Return the sum of all processes' `x`."""

    def gather(self, value: Any) -> list[Any]:
        """Return the values of all processes, by rank."""

    def tell(self, value: Any) -> Any:
        """Return the value of rank 0."""


class World:
    """This process among those of the run.

    Attributes:
        rank: 0 for the one that writes files.
        size: how many there are.
    """

    def __init__(self, link: Link | None = None, *, rank: int = 0, size: int = 1) -> None:
        """Take part through `link`, or be alone without one."""
        self.rank = rank
        self.size = size
        self._link = link

    def rounds(self, count: int) -> int:
        """Return how many turns it takes to do `count` things, each process one a turn."""
        return -(-count // self.size)

    def part(self, count: int) -> slice:
        """Return this process's part of `count` samples of one batch."""
        return slice(self.rank * count // self.size, (self.rank + 1) * count // self.size)

    def each(self, count: int, make: Callable[[int], T]) -> Iterator[T]:
        """Yield `make(0)` to `make(count - 1)`, each made by one process and given to all; tensors lie on the CPU."""
        for start in range(0, count, self.size):
            index = start + self.rank
            own = make(index) if index < count else None
            yield from self.gather(own)[: count - start]

    def gather(self, value: Any) -> list[Any]:
        """Return the values of all processes, by rank."""
        if self._link is None:
            return [value]
        with _lost():
            return self._link.gather(value)

    def tell(self, value: T) -> T:
        """Return the value of rank 0."""
        if self._link is None:
            return value
        with _lost():
            found: T = self._link.tell(value)
        return found

    def add(self, x: Tensor) -> Tensor:
        """Return the sum of all processes' `x`."""
        if self._link is None:
            return x
        with _lost():
            return self._link.add(x)

    def mean(self, figures: Mapping[str, float], share: float) -> dict[str, float]:
        """Return figures of the whole batch, from those of every process's part, which is `share` of it."""
        if self._link is None:
            return dict(figures)
        values = self.add(share * torch.tensor(list(figures.values()), dtype=torch.float64))
        return dict(zip(figures, values.tolist(), strict=True))

    def add_gradients(self, parameters: Iterable[nn.Parameter], share: float) -> None:
        """Replace the gradients of a part of the batch, which is `share` of it, by those of the whole one."""
        grads = [item.grad for item in parameters if item.grad is not None]
        if self._link is None or not grads:
            return
        total = self.add(share * torch.cat([grad.flatten() for grad in grads]))
        parts = torch.split(total, [grad.numel() for grad in grads])
        for grad, part in zip(grads, parts, strict=True):
            grad.copy_(part.view_as(grad))

    def spread(self, parameters: Iterable[nn.Parameter]) -> None:
        """Give every process the parameters of rank 0."""
        if self._link is None:
            return
        own = list(parameters)
        with torch.no_grad():
            for mine, theirs in zip(own, self.tell([x.detach().cpu() for x in own]), strict=True):
                mine.copy_(theirs)


ALONE = World()


def is_launched() -> bool:
    """Return true if torchrun started several processes, of which this is one."""
    return "TORCHELASTIC_RUN_ID" in os.environ and int(os.environ.get("WORLD_SIZE", "1")) > 1


def local_rank() -> int:
    """Return this process's number among those of this machine."""
    return int(os.environ["LOCAL_RANK"]) if is_launched() else 0


def join(device: torch.device) -> World:
    """Return the world of this process; waits until all processes are there.

    Raises:
        MissingDependencyError: if there are several, and Lightning Fabric is not installed.
    """
    if not is_launched():
        return ALONE
    require(
        "lightning_fabric",
        ">=2.4,<3",
        why="to build with several processes under torchrun",
        install="pip install 'edgeq[distributed]'",
    )
    with _lost():
        link = _Fabric(device)
    return World(link, rank=link.fabric.global_rank, size=link.fabric.world_size)


class _Fabric:
    """The link that Lightning Fabric makes."""

    def __init__(self, device: torch.device) -> None:
        from lightning_fabric import Fabric
        from lightning_fabric.strategies.ddp import DDPStrategy

        logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
        size, here = int(os.environ["WORLD_SIZE"]), int(os.environ["LOCAL_WORLD_SIZE"])
        self.fabric = Fabric(
            accelerator=device.type,
            devices=here,
            num_nodes=size // here,
            strategy=DDPStrategy(timeout=PATIENCE),
        )
        self.fabric.launch()
        # Threads of a group that is left to the end of the interpreter now and then abort a process that was done.
        atexit.register(_leave)

    def add(self, x: Tensor) -> Tensor:
        found: Any = self.fabric.all_reduce(x, reduce_op="sum")
        return found.to(x.device)  # type: ignore[no-any-return]

    def gather(self, value: Any) -> list[Any]:
        found: list[Any] = [None] * self.fabric.world_size
        torch.distributed.all_gather_object(found, value)
        return found

    def tell(self, value: Any) -> Any:
        return self.fabric.broadcast(value)


def _leave() -> None:
    """End the process group, if it is still there."""
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


@contextmanager
def _lost() -> Iterator[None]:
    """Tell a lost process as such.

    Raises:
        BuildError: if another process has gone; not before the launcher had the time to end this one.
    """
    try:
        yield
    except torch.cuda.OutOfMemoryError:
        raise
    except RuntimeError as error:  # of gloo and of NCCL; they have no closer base
        time.sleep(MERCY_S)
        raise BuildError(
            f"another process of this build is gone: {str(error).partition(chr(10))[0]}",
            why="every process has its part of each batch, and none can go on alone",
            mend="read what it said; the same command goes on from the last checkpoint",
        ) from error
