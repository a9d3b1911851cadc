"""Which rows benchmarks/table.py has, their names, and the stamps that say with which figures they were measured."""

from __future__ import annotations

import dataclasses
import shutil
import subprocess
from pathlib import Path
from typing import Any

from published import own_settings

from edgeq.core.recipes import DEFAULT_RECIPE, Recipe, load_recipe, name_recipe, recipe_names
from edgeq.core.serial import digest_of
from edgeq.core.specs import BitSpec, Effort

ROOT = Path(__file__).parents[1]
SETTINGS = ("deploy", "paper")
BITS = ("w8a8", "w4a8", "w4a4", "w3a3", "w2a4")
# Both halves of one paper; a recipe of one half is measured with the other half of the default.
PAIRS = ("dsg+minmax", "genie+genie-m", "synq+synq-qat", "zeroq+minmax")
# What has 8 bits in `deploy` though the row's activations have fewer; other words here make those rows stale.
_NARROW_POLICY = "BRECQ: the output of the first layer has 8 bits"
# What is done before 4-bit grids by recipes that bring channels to one size; likewise.
_COARSE_POLICY = "channels of 4 bits are brought to one size"
# What a figure follows from, beside the fixtures.
_SOURCES = ("calib", "deploy", "edgeq/**/*.py", "edgeq/**/*.toml", "benchmarks/*.py")


def all_rows() -> tuple[str, ...]:
    """Return every recipe, and the pairs that were published together; the default comes first."""
    others = [name for name in recipe_names() if name != DEFAULT_RECIPE]
    return (DEFAULT_RECIPE, *PAIRS, *others)


def name_row(recipe: Recipe, *, setting: str, bits: str, budget: str) -> str:
    """Return the name of a row on record: SETTING/BITS/BUDGET/DATA+NUMBERS."""
    return f"{setting}/{bits}/{budget}/{recipe.data}+{recipe.numbers}"


def stamp_row(
    data: str, numbers: str, *, setting: str, bits: str, effort: Effort = Effort.STANDARD
) -> str:
    """Return the digest of the figures of a pair: of one effort, and of the published budgets.

    Figures of the data half are those of every effort: it is cut from any of them (`budgets.cut_data`). A figure that
    has its default is left out, so that a new one, which older recipes do not use, changes no stamp. Where `deploy` has
    narrow activations, it is also of the policy that says which of them stay wide; where they have 4 bits and the
    recipe equalizes channels, of that.
    """
    name = name_recipe(data, numbers)
    figures = []
    for item in Effort:
        found = _own_figures(load_recipe(name, effort=item))
        if item is not effort:
            found = {key: value for key, value in found.items() if key.startswith("synthesis.")}
        figures.append(found)
    width = BitSpec.parse(bits).activations
    policy = [_NARROW_POLICY] if setting == "deploy" and width < 8 else []
    if width == 4 and load_recipe(name).ranges.equalize_activations > 0:
        policy.append(_COARSE_POLICY)
    return digest_of([figures, own_settings(data), own_settings(numbers), *policy])


def _own_figures(recipe: Recipe) -> dict[str, Any]:
    figures = {}
    for table, values in recipe.tables().items():
        fields = dataclasses.fields(getattr(recipe, table))
        for field in fields:
            if values[field.name] != field.default:
                figures[f"{table}.{field.name}"] = values[field.name]
    return figures


def tell_commit() -> str:
    """Return the commit that the code of this checkout is of, with "+" if it was changed since; "" without git."""
    if shutil.which("git") is None:
        return ""
    commit = _git("log", "-1", "--format=%h", "--abbrev=10", "--", *_SOURCES)
    return f"{commit}+" if _git("status", "--porcelain", "--", *_SOURCES) else commit


def _git(*words: str) -> str:
    """Return what git says here; "" where this is no checkout."""
    done = subprocess.run(("git", *words), cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip()
