"""`edgeq recipes`: the published methods that edgeq holds as data."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from edgeq.cli import options
from edgeq.cli.output import print_fields, print_json, print_table

if TYPE_CHECKING:
    from edgeq.core.recipes import Recipe


def recipes(
    show: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="All figures of one recipe, or of DATA+NUMBERS."),
    ] = None,
    as_json: options.Json = False,
) -> None:
    """List the recipes, or show one. Any data recipe goes with any numbers recipe: --recipe DATA+NUMBERS."""
    from edgeq.core.recipes import list_recipes, load_recipe

    if show is not None:
        recipe = load_recipe(show).to_dict()
        if as_json:
            print_json(recipe)
        else:
            print_fields(recipe)
        return
    if as_json:
        print_json([item.to_dict() for item in list_recipes()])
        return
    print_table(
        ("recipe", "kind", "what", "cost", "without BatchNorm statistics", "paper", "venue"),
        [
            (
                item.name,
                item.kind.value,
                item.title,
                item.cost,
                _substitute(item),
                item.source,
                item.venue,
            )
            for item in list_recipes()
        ],
    )


def _substitute(recipe: Recipe) -> str:
    """Return what a build does with the recipe where the file has no statistics."""
    if recipe.kind.value == "numbers":
        return "as its data recipe"
    if not recipe.synthesis.needs_statistics:
        return "needs none"
    return f"as {recipe.without_statistics}" if recipe.without_statistics else "refuses"
