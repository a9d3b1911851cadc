"""`edgeq device-check`: what the documents leave open, asked of this machine."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated

import typer

from edgeq.cli import options
from edgeq.cli.output import print_json, say

REPORT = "device_check.json"


def device_check(
    target: Annotated[
        str | None,
        typer.Option(
            help="Compare with its card; `edgeq targets` lists them.",
            autocompletion=options.complete_target,
        ),
    ] = None,
    out: Annotated[Path, typer.Option(metavar="FILE", help="The findings.")] = Path(REPORT),
    as_json: options.Json = False,
) -> None:
    """Ask this machine's TensorRT what the documents leave open. Run it on the board."""
    from deploy.board.device_check import check_device
    from deploy.cards import load_card
    from deploy.probes import write_probes

    card = None if target is None else load_card(target)
    with tempfile.TemporaryDirectory(prefix="edgeq-") as scratch:
        write_probes(Path(scratch), card)
        report = check_device(Path(scratch), out=out, say=say if as_json else typer.echo)
    if as_json:
        print_json(report)
    else:
        typer.echo(f"report: {out}")
