"""How long each half of a recipe takes by its work, on record in costs.json beside the table's record.

A budget is then the same steps whenever a row is measured, and whatever else the machine does at that time. Delete the
file where another machine is to measure.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from budgets import Line, fit_line
from table_record import add_record, read_record

# Two runs are compared of which the longer one takes so many seconds more, so that these are more than noise.
PROBE_S = 2.0
# Each is run so often, and the least seconds count: others on the machine only ever add some.
ROUNDS = 3
# Steps of the longer run, where a step takes next to nothing.
MOST_STEPS = 256

# Runs so many steps; returns their work and seconds.
Run = Callable[[int], tuple[float, float]]


class Costs:
    """The record. What is known by its name and stamp is not timed again."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def line(self, name: str, stamp: str, measure: Callable[[], Line]) -> Line:
        """Return the seconds of a half, by `measure` where they are not on record."""
        found = read_record(self._path).get(name, {}).get(stamp)
        if found is None:
            line = measure()
            found = {"start": round(line.start, 3), "each": float(f"{line.each:.4g}")}
            add_record(self._path, name, stamp, found)
        return Line(**found)


def time_line(run: Run) -> Line:
    """Return the seconds by work of `run`."""
    run(2)  # warms libraries up
    _, least = run(2)
    more = 8
    while more < MOST_STEPS and run(more)[1] - least < PROBE_S:
        more *= 2
    pairs = [(run(2), run(more)) for _ in range(ROUNDS)]
    return fit_line(min(short for short, _ in pairs), min(long for _, long in pairs))
