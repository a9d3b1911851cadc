"""`edgeq recipes`: the published methods that edgeq holds as data."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgeq.cli import options
from edgeq.cli.output import print_fields, print_json, print_table, say

if TYPE_CHECKING:
    from edgeq.core.recipe_results import Measured
    from edgeq.core.recipes import Recipe


def recipes(
    show: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="All figures of one recipe, or of DATA+NUMBERS.",
            autocompletion=options.complete_recipe,
        ),
    ] = None,
    as_json: options.Json = False,
) -> None:
    """List the recipes, or show one. Any data recipe goes with any numbers recipe: --recipe DATA+NUMBERS."""
    from edgeq.core.recipe_results import load_measured
    from edgeq.core.recipes import list_recipes, load_recipe

    measured = load_measured()
    if show is not None:
        fields = _fields(load_recipe(show), measured)
        if as_json:
            print_json(fields)
        else:
            print_fields(_in_words(load_recipe(show), fields, measured))
        return
    if as_json:
        print_json([_fields(item, measured) for item in list_recipes()])
        return
    headers = (
        "recipe",
        "kind",
        "what",
        "cost",
        "drop measured, w4a4",
        "published",
        "without BatchNorm statistics",
        "paper",
        "venue",
    )
    print_table(headers, [_line(item, measured) for item in list_recipes()])
    if measured is not None:
        say(f"measured: points of top-1, {measured.where}; all in docs/results.md")
    say("published: other networks and settings, none comparable; `--show NAME` tells them")


def _line(recipe: Recipe, measured: Measured | None) -> tuple[str, ...]:
    from edgeq.core.recipe_results import measured_for, published_for

    return (
        recipe.name,
        recipe.kind.value,
        recipe.title,
        recipe.cost,
        str(measured_for(recipe, measured).get("w4a4", "-")),
        str(next(iter(published_for(recipe)), "-")),
        _substitute(recipe),
        recipe.source,
        recipe.venue,
    )


def _fields(recipe: Recipe, measured: Measured | None) -> dict[str, Any]:
    """Return the plain form of a recipe, with its cost and what it gives."""
    from edgeq.core.recipe_results import measured_for, published_for

    drops = measured_for(recipe, measured)
    found = (
        dataclasses.replace(measured, drops={recipe.name: drops}) if measured and drops else None
    )
    return {
        **recipe.to_dict(),
        "cost": recipe.cost,
        "published": [item.to_dict() for item in published_for(recipe)],
        "measured": found.to_dict() if found else None,
    }


def _in_words(recipe: Recipe, fields: dict[str, Any], measured: Measured | None) -> dict[str, Any]:
    """Return the same with a sentence for each accuracy."""
    from edgeq.core.recipe_results import measured_for, published_for

    published = [
        f"{item}; {item.setting}; {item.pictures}; {item.source}" for item in published_for(recipe)
    ]
    drops = measured_for(recipe, measured)
    words = [f"{bits}: drop {drop} points" for bits, drop in drops.items()]
    where = [f"{measured.where}:"] if measured is not None and words else []
    return {
        **fields,
        "published": published or "none at hand",
        "measured": [*where, *words] or "not measured",
    }


def _substitute(recipe: Recipe) -> str:
    """Return what a build does with the recipe where the file has no statistics."""
    if recipe.kind.value == "numbers":
        return "as its data recipe"
    if not recipe.synthesis.needs_statistics:
        return "needs none"
    return f"as {recipe.without_statistics}" if recipe.without_statistics else "refuses"
