"""`edgeq recipes`: the published methods that edgeq holds as data."""

from __future__ import annotations

from typing import Annotated

import typer

from edgeq.cli.output import print_fields, print_table


def recipes(
    show: Annotated[
        str | None, typer.Option(metavar="NAME", help="All figures of one recipe.")
    ] = None,
) -> None:
    """List the recipes, or show one."""
    from edgeq.core.recipes import list_recipes, load_recipe

    if show is not None:
        print_fields(load_recipe(show).to_dict())
        return
    print_table(
        ("recipe", "what", "source"),
        [(item.name, item.title, item.source) for item in list_recipes()],
    )
