"""Write docs/recipes.md: every recipe with its figures, from edgeq/recipes/*.toml.

python tools/list_recipes.py            # write the document
python tools/list_recipes.py --check    # fail if it would change
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from edgeq.core.recipe_results import Measured, load_measured, measured_for, published_for
from edgeq.core.recipes import Kind, Recipe, load_recipe, recipe_names
from edgeq.core.specs import Effort

DOCUMENT = Path(__file__).parents[1] / "docs" / "recipes.md"

HEAD = """# Recipes

A recipe is a method as data: which blocks, with which figures (`edgeq/recipes/*.toml`). It has two halves: data (which
images?) and numbers (which scales, codes and biases?). A published method usually has one; the other is then that of
the default, `edgeq`. `--recipe NAME` takes another recipe, `--recipe DATA+NUMBERS` a half of each of two: any data
recipe goes with any numbers recipe. `--effort quick|max` takes other figures, and `--set training.steps=500` replaces
one. What each figure means is said in `edgeq/core/synthesis_spec.py` and `edgeq/core/numbers_spec.py`, and each block
names its paper, equation and deviations where it is written. A data recipe may set single figures of the numbers half
that its samples ask for. All of them move samples by Adam with betas of 0.9 and 0.99, where ZeroQ has 0.999 and other
papers do not tell. What the recipes give is measured in [results.md](results.md).

    edgeq recipes
    edgeq recipes --show edgeq

Written by `python tools/list_recipes.py`.
"""


def write_document() -> str:
    """Return the text of docs/recipes.md."""
    recipes = [load_recipe(name) for name in recipe_names()]
    lines = [HEAD, "## Which there are", ""]
    lines += _table(
        ("recipe", "kind", "what", "paper", "venue", "cost", "notes"),
        [
            (
                f"`{item.name}`",
                item.kind.value,
                item.title,
                item.source,
                item.venue,
                item.cost,
                item.notes,
            )
            for item in recipes
        ],
    )
    lines += ["", "## What they give", "", *_results(recipes, load_measured())]
    for half, other in ((Kind.DATA, Kind.NUMBERS), (Kind.NUMBERS, Kind.DATA)):
        own = [item for item in recipes if item.kind is not other]
        lines += ["", f"## Figures of the {half.value} half, standard effort", ""]
        lines += _table(
            ("figure", *(f"`{item.name}`" for item in own)),
            [
                (f"`{key}`", *(_figures(item)[key] for item in own))
                for key in _figures(recipes[0])
                if key.startswith("synthesis.") == (half is Kind.DATA)
            ],
        )
    lines += ["", "## What the other efforts change", ""]
    lines += _table(("recipe", "effort", "figures"), _changes(recipes))
    return "\n".join(lines) + "\n"


def _results(recipes: Sequence[Recipe], measured: Measured | None) -> list[str]:
    """Return a table of the drops that were measured here, and one of what was published."""
    if measured is None:
        lines = ["Drops: not measured yet."]
    else:
        lines = [
            "Drops in points of top-1, mean ± standard deviation of three seeds:",
            f"{measured.where}, {measured.float_pct:.2f} % before. The other half is the default's.",
            "[results.md](results.md) has the other budgets and the other setting.",
            "",
        ]
        widths = sorted({bits for drops in measured.drops.values() for bits in drops}, reverse=True)
        rows = []
        for item in recipes:
            drops = measured_for(item, measured)
            rows.append((f"`{item.name}`", *(str(drops.get(bits, "-")) for bits in widths)))
        lines += _table(("recipe", *widths), rows)
    lines += [
        "",
        "What the literature tells, in percent of top-1. Networks, settings and pictures differ: no row is comparable",
        "with another unless all of them agree, and none with what is measured here. Recipes that are missing have no",
        "figure that could be traced to the paper, its code or a later paper.",
        "",
    ]
    rows = [
        (
            f"`{item.name}`",
            found.network,
            found.bits,
            f"{found.top1_pct:.2f}",
            f"{found.float_pct:.2f}" if found.float_pct is not None else "-",
            found.setting,
            found.pictures,
            found.source,
        )
        for item in recipes
        for found in published_for(item)
    ]
    headers = ("recipe", "network", "bits", "top-1", "float", "quantized", "pictures", "source")
    return [*lines, *_table(headers, rows)]


def _figures(recipe: Recipe) -> dict[str, str]:
    """Return every figure of a recipe, by the name that --set takes."""
    return {
        f"{table}.{key}": str(value)
        for table, figures in recipe.tables().items()
        for key, value in figures.items()
    }


def _is_own(recipe: Recipe, key: str) -> bool:
    """Return true if a figure is of a half that the recipe has itself."""
    half = Kind.DATA if key.startswith("synthesis.") else Kind.NUMBERS
    return recipe.kind in {half, Kind.BOTH}


def _changes(recipes: Sequence[Recipe]) -> list[tuple[str, str, str]]:
    rows = []
    for item in recipes:
        standard = _figures(item)
        for effort in (Effort.QUICK, Effort.MAX):
            other = _figures(load_recipe(item.name, effort=effort))
            changed = [
                f"`{key}={value}`"
                for key, value in other.items()
                if value != standard[key] and _is_own(item, key)
            ]
            rows.append((f"`{item.name}`", effort.value, ", ".join(changed) or "none"))
    return rows


def _table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(line)} |" for line in (headers, ["---"] * len(headers), *rows)]


def main() -> None:
    """Write the document, or with --check tell whether it is up to date."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing, fail if it differs")
    text = write_document()
    if not parser.parse_args().check:
        DOCUMENT.write_text(text, encoding="utf-8")
    elif DOCUMENT.read_text("utf-8") != text:
        raise SystemExit(f"{DOCUMENT.name} is out of date: run python tools/list_recipes.py")


if __name__ == "__main__":
    main()
