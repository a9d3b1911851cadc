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


def open_terminal(monkeypatch: pytest.MonkeyPatch, columns: int) -> Terminal:
    """Return standard output, now a terminal; in a fixture, pytest's capture would take its place again."""
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("TERM", "xterm")
    return terminal


def test_columns_are_as_wide_as_their_longest_cell(capsys: Any) -> None:
    print_table(("a", "b"), [("longer", "x"), ("y", "")])
    assert capsys.readouterr().out == "a       b\nlonger  x\ny\n"


def test_a_table_on_a_narrow_terminal_is_folded_and_not_cut(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    terminal = open_terminal(monkeypatch, 24)
    print_table(("tensor",), [("abcdefghij" * 4,), ("[red]x[/red]",)])
    letters = "".join(c for c in terminal.getvalue() if c.isascii() and (c.isalnum() or c in "[]/"))
    assert "abcdefghij" * 4 in letters
    assert "[red]x[/red]" in letters


def test_words_that_a_terminal_has_no_room_for_side_by_side_stand_below_each_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    terminal = open_terminal(monkeypatch, 24)
    rows = [("conv1/Conv_output_0", "two words"), ("y", "z")]
    print_table(("tensor", "what"), rows)
    lines = ["tensor  conv1/Conv_output_0", "what    two words", "", "tensor  y", "what    z", ""]
    assert terminal.getvalue().splitlines() == lines


@pytest.mark.parametrize("columns", [34, 40, 60, 200])
def test_a_table_is_as_wide_as_the_terminal_at_most_and_breaks_no_word(
    monkeypatch: pytest.MonkeyPatch, columns: int
) -> None:
    terminal = open_terminal(monkeypatch, columns)
    rows = [("conv1/Conv_output_0", "a b c d " * 8, "x"), ("y", "", "z")]
    print_table(("tensor", "what", "n"), rows)
    lines = [line for line in terminal.getvalue().splitlines() if "\x1b" not in line]  # no headers
    assert max(map(len, lines)) <= columns
    assert any(line.startswith("│ conv1/Conv_output_0 │ a b") for line in lines)
    assert sum(line.count("c") for line in lines) == 1 + 8


def test_nested_fields_and_sentences_have_lines_of_their_own(capsys: Any) -> None:
    print_fields({"a": {"b": 1}, "notes": ["one word", "two words"], "sizes": [1, 2]})
    assert capsys.readouterr().out == (
        "a.b    1\nnotes  one word\n       two words\nsizes  [1, 2]\n"
    )
