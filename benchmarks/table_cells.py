"""The cells of benchmarks/table.json: mean and spread of the seeds that were measured with today's figures of a recipe.

Where none was, the older ones make a cell that is marked as stale; never are the two mixed.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import Any

from table_record import Record
from table_rows import stamp_row

from edgeq.core.recipe_results import Drop
from edgeq.core.recipes import recipe_names


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One pair of halves at one setting, width and budget.

    Attributes:
        runs: figures of each seed, at least one.
        is_stale: true if figures of the recipe have changed since, or it is gone.
    """

    runs: tuple[dict[str, Any], ...]
    is_stale: bool

    @property
    def drop(self) -> Drop:
        """Return mean and standard deviation of the seeds."""
        drops = [run["drop_points"] for run in self.runs]
        return Drop(
            points=round(statistics.mean(drops), 4),
            spread=round(statistics.stdev(drops), 4) if len(drops) > 1 else None,
            seeds=len(drops),
        )

    @property
    def changed_pct(self) -> float | None:
        """Return the mean of pictures whose class is not the teacher's; none where a seed has no such figure."""
        known = all("changed_pct" in run for run in self.runs)
        return self.mean("changed_pct") if known else None

    def mean(self, key: str) -> float:
        """Return the mean of a figure over the seeds."""
        return float(statistics.mean(run[key] for run in self.runs))


# By setting, budget, pair ("data+numbers") and bits.
Cells = dict[tuple[str, str, str, str], Cell]


def read_cells(record: Record) -> Cells:
    """Return the cell of each row on record that has a seed."""
    cells: Cells = {}
    stamps: dict[tuple[str, str, str], str] = {}
    for row, seeds in sorted(record.items()):
        setting, bits, budget, pair = row.split("/")
        kind = setting, bits, pair
        if kind not in stamps:
            halves = pair.split("+")
            known = set(halves) <= set(recipe_names())
            stamps[kind] = stamp_row(*halves, setting=setting, bits=bits) if known else "gone"
        runs = [seeds[seed] for seed in sorted(seeds, key=int)]
        current = [run for run in runs if run.get("stamp") == stamps[kind]]
        if runs:
            cells[setting, budget, pair, bits] = Cell(
                runs=tuple(current or runs), is_stale=not current
            )
    return cells
