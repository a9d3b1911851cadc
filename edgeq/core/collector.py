"""Python's garbage collector, put off while many lasting objects are made."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def collector_paused() -> Iterator[None]:
    """Put the collector off while the block (or, as a decorator, the function) runs.

    Reading a graph makes objects that stay, a few for each node. Each time their number has grown by a quarter, a full
    collection would walk all that torch and onnx hold as well, so that a node of a large graph costs more than one of a
    small graph (benchmarks/importing.py).
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
