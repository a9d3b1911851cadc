"""From the findings of one check to one error: all of a kind are told at once, so that nobody mends a fault a run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from edgeq.core.errors import ModelError

_SHOWN = 8  # more names than this do not help a reader


def listed(items: Sequence[str]) -> str:
    """Return the items in a row; of a long list the first ones and the number of the rest."""
    rest = len(items) - _SHOWN
    return ", ".join(items[:_SHOWN]) + (f" and {rest} more" if rest > 0 else "")


def require_none(found: Sequence[str], what: str, *, why: str, mend: str, path: Path) -> None:
    """Raise one error that lists all of `found`; do nothing if it is empty.

    Raises:
        ModelError: `what` and the findings.
    """
    if found:
        raise ModelError(f"{what}: {listed(found)}", why=why, mend=mend, path=path)
