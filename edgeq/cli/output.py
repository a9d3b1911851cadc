"""How results and messages look: tables, JSON, and what goes to standard error."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Sequence
from typing import Any

import typer

_ROOMS = ("edgeq", "calib", "deploy")


def say(text: str) -> None:
    """Write a message to standard error, which is for all that is no result."""
    typer.echo(text, err=True)


def print_json(value: Any) -> None:
    """Write a result to standard output as indented JSON with sorted keys."""
    typer.echo(json.dumps(value, indent=1, sort_keys=True, allow_nan=False))


def print_table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Write a table to standard output: drawn and folded on a terminal, aligned text elsewhere; never cut short.

    Where the terminal is too narrow for the words of all columns, each row becomes lines of a header and a cell.
    """
    if not (sys.stdout and sys.stdout.isatty()):
        for line in align([headers, *rows]):
            typer.echo(line)
        return
    from rich.console import Console
    from rich.table import Table

    console, table = Console(), Table()
    room = console.width - 3 * len(headers) - 1  # a border and two spaces a column
    widths = _choose_widths(list(zip(headers, *rows, strict=True)), room)
    if sum(widths) > room:
        for row in rows:
            typer.echo("\n".join([*align(list(zip(headers, row, strict=True))), ""]))
        return
    for header, width in zip(headers, widths, strict=True):
        table.add_column(header, overflow="fold", width=width)
    for row in rows:
        table.add_row(*(_escape(cell) for cell in row))
    console.print(table)


def print_fields(fields: dict[str, Any]) -> None:
    """Write the plain form of a spec to standard output, one value a line; nested keys are joined by a dot."""
    for line in align(_flatten(fields)):
        typer.echo(line)


def align(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return one line a row, with columns as wide as their longest cell.

    Example:
        >>> align([("a", "bc"), ("def", "g")])
        ['a    bc', 'def  g']
    """
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    return [
        "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def set_up_logging() -> None:
    """Send what the rooms log at INFO and above to standard error; a warning is said once a run."""
    for room in _ROOMS:
        logger = logging.getLogger(room)
        for handler in [item for item in logger.handlers if isinstance(item, _ToStandardError)]:
            logger.removeHandler(handler)
        logger.addHandler(_ToStandardError())
        logger.setLevel(logging.INFO)


class _ToStandardError(logging.Handler):
    """Writes to whatever standard error is now: a live bar puts itself in its place."""

    def __init__(self) -> None:
        super().__init__()
        self._said: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if record.levelno >= logging.WARNING:
            if text in self._said:
                return
            self._said.add(text)
            text = f"{record.levelname.lower()}: {text}"
        say(text)


def _flatten(fields: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    for key, value in fields.items():
        if isinstance(value, dict):
            rows += _flatten(value, f"{prefix}{key}.")
        elif isinstance(value, list) and any(
            isinstance(item, str) and " " in item for item in value
        ):
            rows += [
                (f"{prefix}{key}" if index == 0 else "", str(item))
                for index, item in enumerate(value)
            ]
        else:
            rows.append(
                (f"{prefix}{key}", json.dumps(value) if isinstance(value, list) else str(value))
            )
    return rows


def _choose_widths(columns: Sequence[Sequence[str]], room: int) -> list[int]:
    """Return widths that break no word, and share what is left of `room` evenly among columns that can use it."""
    whole = [max(map(len, cells)) for cells in columns]
    widths = [max((len(word) for x in cells for word in x.split()), default=0) for cells in columns]
    for _ in range(room - sum(widths)):
        folded = [index for index, width in enumerate(widths) if width < whole[index]]
        if folded:
            widths[min(folded, key=widths.__getitem__)] += 1
    return widths


def _escape(cell: str) -> str:
    from rich.markup import escape

    return escape(cell)
