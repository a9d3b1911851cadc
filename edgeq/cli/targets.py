"""`edgeq targets`: the chips and runtimes that edgeq knows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from edgeq.cli import options
from edgeq.cli.output import print_fields, print_json, print_table

if TYPE_CHECKING:  # numpy is too much for `--help`
    from edgeq.core.specs import TargetCard


def targets(
    show: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="All facts of one target.",
            autocompletion=options.complete_target,
        ),
    ] = None,
    as_json: options.Json = False,
) -> None:
    """List the targets, or show one."""
    from deploy.cards import card_names, load_card

    if show is not None:
        card = load_card(show)
        if as_json:
            print_json(card.to_dict())
        else:
            _print_card(card)
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


def _print_card(card: TargetCard) -> None:
    """Write the facts, one a line, and below them where each comes from and how it is known."""
    fields = card.to_dict()
    del fields["sources"]
    fields["formats"] = ", ".join(fields["formats"])
    print_fields(fields)
    typer.echo("")
    print_table(
        ("facts", "verified", "how", "source"),
        [
            (
                ", ".join(source.facts),
                "yes" if source.evidence.is_verified else "no",
                source.evidence.value,
                source.text,
            )
            for source in card.sources
        ],
    )
