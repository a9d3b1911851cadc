"""How library code tells what it is doing, without knowing who listens."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Protocol  # novm
else:
    Protocol = object  # typing has it from Python 3.8 on; this file also runs on boards


class Progress(Protocol):
    """Receives the steps of one stage at a time."""

    def start(self, stage: str, total: int, unit: str) -> None:
        """Open `stage`, which has `total` steps called `unit`."""

    def advance(self, n: int = 1, **figures: float) -> None:
        """Count `n` more steps; `figures` are the numbers worth watching (a loss, an agreement)."""

    def finish(self, summary: str) -> None:
        """Close the stage with one line."""


class NoProgress:
    """Listens to nothing."""

    def start(self, stage: str, total: int, unit: str) -> None:
        """Do nothing."""

    def advance(self, n: int = 1, **figures: float) -> None:
        """Do nothing."""

    def finish(self, summary: str) -> None:
        """Do nothing."""


SILENT: Progress = NoProgress()
