"""`edgeq targets`: the chips and runtimes that edgeq knows."""

from __future__ import annotations

from typing import Annotated

import typer

from edgeq.cli import options
from edgeq.cli.output import print_fields, print_json, print_table


def targets(
    show: Annotated[
        str | None, typer.Option(metavar="NAME", help="All facts of one target.")
    ] = None,
    as_json: options.Json = False,
) -> None:
    """List the targets, or show one."""
    from deploy.cards import card_names, load_card

    if show is not None:
        write = print_json if as_json else print_fields
        write(load_card(show).to_dict())
        return
    cards = [load_card(name) for name in card_names()]
    if as_json:
        print_json([card.to_dict() for card in cards])
        return
    print_table(
        ("target", "what", "runtime", "stack"),
        [
            (card.name, card.title, f"{card.runtime} {card.runtime_version}", card.stack)
            for card in cards
        ],
    )
