"""The records of benchmarks/table.py: JSON files that several processes add to.

In table.json a row is SETTING/BITS/BUDGET/DATA+NUMBERS; under it are the seeds, and under each its figures. costs.json
(costs.py) has stamps in the place of seeds.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from edgeq.core.files import read_json, write_json

Record = dict[str, dict[str, dict[str, Any]]]


def read_record(path: Path) -> Record:
    """Return what is on record; nothing where there is no file yet."""
    return read_json(path) if path.exists() else {}


def add_record(path: Path, row: str, seed: int | str, figures: dict[str, Any]) -> None:
    """Write the figures of one row and seed (or stamp) at once, beside what other processes have added since."""
    with _locked(path.parent):
        record = read_record(path)
        record.setdefault(row, {})[str(seed)] = figures
        write_json(path, record)


def is_recorded(path: Path, row: str, seed: int, stamp: str) -> bool:
    """Return true if a row and seed are on record with this stamp, by this process or another."""
    figures = read_record(path).get(row, {}).get(str(seed), {})
    return bool(figures.get("stamp") == stamp)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the system's lock on a folder; it goes with the process."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
