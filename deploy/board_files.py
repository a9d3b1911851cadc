"""Which of our files run on the board: the folder `deploy/board`, and the few of the core that it leans on."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parents[1]
_CORE = (
    "deploy/__init__.py",
    "edgeq/__init__.py",
    "edgeq/core/__init__.py",
    "edgeq/core/errors.py",
    "edgeq/core/files.py",
    "edgeq/core/optional.py",
    "edgeq/core/progress.py",
)


def board_files() -> tuple[str, ...]:
    """Return the paths, relative to the folder that holds the packages, sorted."""
    own = [path.relative_to(ROOT).as_posix() for path in (ROOT / "deploy/board").glob("*.py")]
    return tuple(sorted((*_CORE, *own)))
