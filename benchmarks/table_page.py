"""The part of docs/results.md that is made from benchmarks/table.json, and what `edgeq recipes` tells of it.

Entries: `table_section`, `measured`. Written by benchmarks/results_page.py.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence

from table_cells import Cell, Cells
from table_rows import BITS, SETTINGS, all_rows

from edgeq.core.recipe_results import Drop, Measured
from edgeq.core.recipes import load_recipe, name_recipe

NETWORK = "ResNet-20 on CIFAR-10"
# In this order, and said to be missing where nothing is on record.
BUDGETS = ("60", "180", "600", "own")
# What `edgeq recipes` shows.
SHOWN_SETTING, SHOWN_BUDGET = "deploy", "60"
PICTURE = "accuracy_table.svg"

HEAD = """
## Every recipe at the same seconds

Made by `benchmarks/accuracy.py --table`, on the same network and pictures. A row is a pair: the data half makes the
samples, the numbers half finds scales and codes on them. A recipe of one half has the other half of the default,
`edgeq`; pairs that were published together have a row of their own.

- **Budget**: the processor seconds of one thread that both halves have together, evaluation apart. They are what the
  clock shows on a core that nobody else uses; wall time is beside them, and longer where rows were measured side by
  side on a busy machine. Each half is cut or stretched, in steps and samples, to fill the budget; ranges alone end
  early. How many steps that is was timed once (`benchmarks/costs.json`), so what a row took may be more on a busy
  machine. A sample set is made once for a data half, seed and budget, and its cost counts in every row that uses it.
- **Cells**: mean drop in points of top-1 ± standard deviation of three seeds; another number of seeds is in
  parentheses. `-` was not measured. The least mean of a column is bold. `*`: the recipe's figures, or the grids, have
  changed since.
- **After a slash**, where it is on record: pictures whose class is not the teacher's, in percent. It tells close rows
  apart better than the drop, in which answers gained and lost cancel: with 300 changed pictures of 10,000, chance alone
  moves the drop of a seed by up to 0.17 points (one standard deviation).
- **Commits**: those before 69f5bd98f8 searched first scales on every n-th value of a tensor, those since on values from
  everywhere in it. `mse` and `kl` have been measured anew. Eight rows that train were measured both ways at w4a4 and
  60 s, three seeds each (those with a figure behind a slash): some lost more, some less, and on the mean nothing moved
  (commit 442cf86 has the figures).
- **Other columns**: means over the bits of the row. *Passes* are samples that went through the teacher, forward and
  backward; a part of the network counts as its share of layers. *MB* is the largest resident memory of the process,
  libraries included.
"""

TITLES = {
    "deploy": "Setting `deploy`: first and last layer at 8 bits, the Q/DQ file in ONNX Runtime",
    "paper": "Setting `paper`: every layer at b bits, activations behind a ReLU alone, in PyTorch",
}
NOTES = {
    "deploy": "What `edgeq build` writes for `jetson-orin`; what the first layer makes has 8 bits too, as in BRECQ\n"
    "and Genie. It cannot be compared with the other setting.",
    "paper": "Where methods of the QAT family put their quantizers when they publish (`benchmarks/paper.py`); nobody\n"
    "deploys it. The picture and what enters the last layer stay float.",
}
OWN = """Each half has the budget that its method was published with (`benchmarks/published.py`), with fewer iterations
where the row would take more than {caps} s. *Scale* is what was left of the published iterations, in the data and in
the numbers half; 1 is all. A recipe that is no published method, or has its published figures anyway, starts from its
standard effort.
"""


def table_section(cells: Cells) -> str:
    """Return the part of the page, which says what was not measured."""
    lines = [HEAD]
    if cells:
        lines += [f"![Drop against seconds, by setting and bits]({PICTURE})", ""]
    for setting in SETTINGS:
        lines += [f"### {TITLES[setting]}", "", NOTES[setting], ""]
        known = {budget for place, budget, _, _ in cells if place == setting}
        for budget in (*BUDGETS, *sorted(known - set(BUDGETS), key=float)):
            if budget in known:
                found = {(pair, bits): cell for (place, name, pair, bits), cell in cells.items()
                         if (place, name) == (setting, budget)}  # fmt: skip
                lines += _budget_part(budget, found)
        missing = [_title(budget) for budget in BUDGETS if budget not in known]
        if missing:
            lines += [f"Not measured yet: {'; '.join(missing)}.", ""]
    if cells:
        lines += [_circumstances(cells.values()), ""]
    return "\n".join(lines)


def measured(cells: Cells) -> Measured | None:
    """Return what `edgeq recipes` tells: one setting and budget, measured with today's figures; none without any."""
    drops: dict[str, dict[str, Drop]] = {}
    floats: list[float] = []
    for (setting, budget, pair, bits), cell in cells.items():
        if (setting, budget) == (SHOWN_SETTING, SHOWN_BUDGET) and not cell.is_stale:
            drops.setdefault(name_recipe(*pair.split("+")), {})[bits] = cell.drop
            floats += [run["top1_pct"] + run["drop_points"] for run in cell.runs]
    if not drops:
        return None
    return Measured(
        network=NETWORK,
        float_pct=round(statistics.median(floats), 2),
        setting=SHOWN_SETTING,
        seconds=float(SHOWN_BUDGET),
        drops=drops,
    )


def list_pairs(recorded: Iterable[str]) -> list[str]:
    """Return every pair that the table is to have, and what else is on record, as "data+numbers"."""
    recipes = [load_recipe(name) for name in all_rows()]
    wanted = [f"{item.data}+{item.numbers}" for item in recipes]
    return list(dict.fromkeys([*wanted, *sorted(recorded)]))


def _title(budget: str) -> str:
    return "the budgets that were published" if budget == "own" else f"{float(budget):g} s"


def _budget_part(budget: str, cells: dict[tuple[str, str], Cell]) -> list[str]:
    """Return one budget's table; `cells` is by pair and bits."""
    is_own = budget == "own"
    lines = [f"#### {_title(budget)[0].upper()}{_title(budget)[1:]}", ""]
    if is_own:
        caps = sorted({run.get("budget_s", 0) for cell in cells.values() for run in cell.runs})
        lines += [OWN.format(caps=" or ".join(f"{cap:g}" for cap in caps))]
    headers = ["data", "numbers", *BITS, "passes", "cpu s", "wall s", "MB"]
    headers += ["scale"] if is_own else []
    least = [_least(cells, bits) for bits in BITS]
    rows = []
    for pair in list_pairs(pair for pair, _ in cells):
        row = [cells.get((pair, bits)) for bits in BITS]
        known = [cell for cell in row if cell is not None]
        drops = [_drop(cell, best) for cell, best in zip(row, least, strict=True)]
        rows.append([*pair.split("+"), *drops, *_cost(known, is_own=is_own)])
    return [*lines, *_table(headers, rows), ""]


def _least(cells: dict[tuple[str, str], Cell], bits: str) -> float | None:
    """Return the least mean drop of a width; none without any that is not stale."""
    points = [
        cell.drop.points
        for (_, width), cell in cells.items()
        if width == bits and not cell.is_stale
    ]
    return min(points, default=None)


def _drop(cell: Cell | None, least: float | None) -> str:
    if cell is None:
        return "-"
    if cell.is_stale:
        return f"{cell.drop} *"
    drop = f"**{cell.drop}**" if cell.drop.points == least else str(cell.drop)
    return drop if cell.changed_pct is None else f"{drop} / {cell.changed_pct:.2f}"


def _cost(cells: Sequence[Cell], *, is_own: bool) -> list[str]:
    """Return passes, seconds, memory and, of a published budget, its scale."""
    if not cells:
        return ["-"] * (5 if is_own else 4)

    def mean(key: str) -> float:
        return statistics.mean(cell.mean(key) for cell in cells)

    passes = f"{_thousands(mean('teacher_forward'))} / {_thousands(mean('teacher_backward'))}"
    costs = [passes, *(f"{mean(key):.0f}" for key in ("cpu_s", "wall_s", "peak_mb"))]
    scale = f"{mean('data_scale'):.3g} / {mean('numbers_scale'):.3g}"
    return [*costs, scale] if is_own else costs


def _thousands(count: float) -> str:
    return f"{count / 1000:.0f}k" if count >= 9950 else f"{count / 1000:.1f}k"


def _table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(line)} |" for line in (headers, ["---"] * len(headers), *rows)]


def _circumstances(cells: Iterable[Cell]) -> str:
    runs = [run for cell in cells for run in cell.runs]

    def every(key: str) -> str:
        return "; ".join(sorted({str(run[key]) for run in runs if run.get(key)})) or "unknown"

    return (
        f"Machine: {every('machine')}. Versions: {every('versions')}. Commits: {every('commit')}."
    )
