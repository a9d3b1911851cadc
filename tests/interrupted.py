"""A listener that ends a loop as an interrupt does."""

from __future__ import annotations

from edgeq.core.progress import NoProgress


class Interrupted(NoProgress):
    """Raises at the given step."""

    def __init__(self, step: int) -> None:
        self._left = step

    def advance(self, n: int = 1, **figures: float) -> None:
        self._left -= 1
        if self._left == 0:
            raise KeyboardInterrupt
