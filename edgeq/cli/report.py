"""`edgeq report`: several builds side by side, as a page and as a table."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgeq.cli import options
from edgeq.cli.output import print_json, print_table
from edgeq.core.errors import InputError


def report(
    builds: Annotated[
        list[Path], typer.Argument(metavar="BUILD...", help="Folders that `edgeq build` wrote.")
    ],
    out: Annotated[Path, typer.Option(metavar="FILE", help="The page.")] = Path("builds.html"),
    as_json: options.Json = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the page if there is one.")
    ] = False,
) -> None:
    """Put several builds side by side."""
    from edgeq.core.files import write_bytes
    from edgeq.report.builds import read_build
    from edgeq.report.page import render_builds

    if out.exists() and not (overwrite and out.is_file()):
        raise InputError(
            f"{out.name or out} exists",
            why="edgeq deletes no file unless it is told to",
            mend="choose another --out, or pass --overwrite to replace a file",
            path=out,
        )
    rows = [read_build(folder) for folder in builds]
    write_bytes(out, render_builds(rows))
    if as_json:
        print_json({"page": str(out), "builds": [row.to_dict() for row in rows]})
        return
    print_table(
        (
            "build",
            "bits",
            "recipe",
            "target",
            "top-1 before",
            "top-1 after",
            "same top-1",
            "SQNR",
            "size",
            "latency",
        ),
        [
            (
                row.name,
                row.bits,
                row.recipe,
                row.target,
                _show(row.top1_before_pct, ".2f", "%"),
                _show(row.top1_after_pct, ".2f", "%"),
                _show(row.match_pct, ".2f", "%"),
                _show(row.sqnr_db, ".1f", "dB"),
                _show(row.size_kb, ".0f", "kB"),
                _show(row.latency_ms, ".3g", "ms", f" ({row.backend})"),
            )
            for row in rows
        ],
    )
    typer.echo(f"page: {out}")


def _show(value: float | None, form: str, unit: str, note: str = "") -> str:
    return "not measured" if value is None else f"{value:{form}} {unit}{note}"
