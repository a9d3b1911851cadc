from __future__ import annotations

import io
import sys
from typing import Any

import pytest

from edgeq.cli.output import print_fields, print_table


class Terminal(io.StringIO):
    """Takes text as a terminal does."""

    def isatty(self) -> bool:
        return True


def test_columns_are_as_wide_as_their_longest_cell(capsys: Any) -> None:
    print_table(("a", "b"), [("longer", "x"), ("y", "")])
    assert capsys.readouterr().out == "a       b\nlonger  x\ny\n"


def test_a_table_on_a_narrow_terminal_is_folded_and_not_cut(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setenv("COLUMNS", "24")
    monkeypatch.setenv("TERM", "xterm")
    print_table(("tensor",), [("abcdefghij" * 4,), ("[red]x[/red]",)])
    letters = "".join(c for c in terminal.getvalue() if c.isascii() and (c.isalnum() or c in "[]/"))
    assert "abcdefghij" * 4 in letters
    assert "[red]x[/red]" in letters


def test_nested_fields_and_sentences_have_lines_of_their_own(capsys: Any) -> None:
    print_fields({"a": {"b": 1}, "notes": ["one word", "two words"], "sizes": [1, 2]})
    assert capsys.readouterr().out == (
        "a.b    1\nnotes  one word\n       two words\nsizes  [1, 2]\n"
    )
