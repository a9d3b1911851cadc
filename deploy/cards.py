"""Target cards: the facts on each chip and its runtime, kept as data in `targets/*.toml`."""

from __future__ import annotations

import sys
from pathlib import Path

from edgeq.core.errors import TargetError, describe_choices
from edgeq.core.specs import TargetCard

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_FOLDER = Path(__file__).parent / "targets"


def card_names() -> tuple[str, ...]:
    """Return the names of all targets, in alphabetical order."""
    return tuple(sorted(path.stem for path in _FOLDER.glob("*.toml")))


def load_card(name: str) -> TargetCard:
    """Return the card of the target `name`.

    Raises:
        TargetError: if there is no such target; the nearest names are offered.
    """
    if name not in card_names():
        raise TargetError(
            f"unknown target '{name}'",
            why="edgeq has no card with the facts on that target",
            mend=describe_choices(name, card_names()),
        )
    data = tomllib.loads((_FOLDER / f"{name}.toml").read_text("utf-8"))
    return TargetCard.from_dict({"name": name, **data})
