from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from edgeq.cli.progress import BarProgress, ConsoleProgress, LineProgress, make_progress
from edgeq.core.errors import EdgeqBug, InputError


class Clock:
    """Seconds that pass only when the test says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    """Return a clock that stands still."""
    return Clock()


def make(kind: Any, clock: Clock) -> tuple[ConsoleProgress, io.StringIO]:
    file = io.StringIO()
    console = Console(file=file, force_terminal=kind is BarProgress, width=120)
    return kind(console, clock=clock), file


def run_stage(progress: ConsoleProgress, clock: Clock, *, steps: int, seconds: float) -> None:
    progress.start("train", steps, "steps")
    for index in range(steps):
        clock.now += seconds
        progress.advance(loss=1 / (index + 1))
    progress.finish("loss 0.01")


def test_a_line_comes_every_ten_per_cent_and_one_at_the_end(clock: Clock) -> None:
    progress, file = make(LineProgress, clock)
    run_stage(progress, clock, steps=200, seconds=0.5)
    lines = file.getvalue().splitlines()
    assert [line.split()[1] for line in lines[:-1]] == [str(pct) for pct in range(10, 100, 10)]
    assert lines[0] == "train          10 %  20/200 steps  2 steps/s  90 s left  loss 0.05"
    assert lines[-1] == "train          100.0 s  loss 0.01"


def test_a_line_comes_after_thirty_seconds_of_slow_steps(clock: Clock) -> None:
    progress, file = make(LineProgress, clock)
    progress.start("train", 1000, "steps")
    for _ in range(7):
        clock.now += 10
        progress.advance()
    assert [line.split()[3] for line in file.getvalue().splitlines()] == ["3/1000", "6/1000"]


def test_a_stage_of_unknown_length_has_no_per_cent_and_no_time_left(clock: Clock) -> None:
    progress, file = make(LineProgress, clock)
    progress.start("read", 0, "nodes")
    clock.now += 31
    progress.advance(62)
    assert file.getvalue() == "read          62 nodes  2 nodes/s\n"


def test_markup_in_a_name_is_text(clock: Clock) -> None:
    progress, file = make(LineProgress, clock)
    progress.start("read", 1, "files")
    progress.finish("[bold]model[/bold]")
    assert file.getvalue().endswith("[bold]model[/bold]\n")


def test_a_bar_shows_rate_and_figures_and_leaves_one_line(clock: Clock) -> None:
    progress, file = make(BarProgress, clock)
    with progress:
        progress.start("train", 10, "steps")
        clock.now += 2
        progress.advance(4, loss=0.125)
        assert isinstance(progress, BarProgress)
        assert progress._bar is not None
        progress._bar.refresh()
        progress.finish("done")
    text = file.getvalue()
    assert "4/10 steps" in text
    assert "2 steps/s" in text
    assert "loss 0.125" in text
    assert text.rstrip().endswith("train            2.0 s  done")


def test_the_cursor_comes_back_when_a_stage_never_ends(clock: Clock) -> None:
    progress, file = make(BarProgress, clock)
    with progress:
        progress.start("train", 10, "steps")
    assert file.getvalue().rfind("\x1b[?25h") > file.getvalue().rfind("\x1b[?25l") >= 0


def test_the_log_has_a_line_for_each_event_and_no_nan(clock: Clock, tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    progress, _ = make(LineProgress, clock)
    progress.log_to(log)
    progress.start("train", 20, "steps")
    for _ in range(20):
        progress.advance(loss=float("nan"))
    progress.finish("all of it")
    records = [json.loads(line) for line in log.read_text().splitlines()]
    assert [item["event"] for item in records] == ["start", *["advance"] * 10, "finish"]
    assert records[1]["figures"] == {"loss": None}
    assert (records[-1]["summary"], records[-1]["done"]) == ("all of it", 20)


def test_the_log_tells_what_was_heard_before_it_had_a_place(clock: Clock, tmp_path: Path) -> None:
    progress, _ = make(LineProgress, clock)
    run_stage(progress, clock, steps=1, seconds=0)
    progress.log_to(tmp_path / "log.jsonl")
    run_stage(progress, clock, steps=1, seconds=0)
    lines = (tmp_path / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["event"] for line in lines] == ["start", "advance", "finish"] * 2


def test_a_log_that_cannot_be_written_is_an_error(clock: Clock, tmp_path: Path) -> None:
    progress, _ = make(LineProgress, clock)
    progress.log_to(tmp_path)  # a folder in the place of the file
    progress.start("read", 1, "files")
    with pytest.raises(InputError, match="cannot write the log"):
        progress.finish("done")


def test_a_step_outside_a_stage_is_a_bug(clock: Clock) -> None:
    progress, _ = make(LineProgress, clock)
    with pytest.raises(EdgeqBug, match="outside any stage"):
        progress.advance()


def test_a_stage_inside_a_stage_is_a_bug(clock: Clock) -> None:
    progress, _ = make(LineProgress, clock)
    progress.start("read", 1, "files")
    with pytest.raises(EdgeqBug, match="'train' starts before 'read' has ended"):
        progress.start("train", 1, "steps")


def test_without_a_terminal_the_form_is_lines() -> None:
    assert isinstance(make_progress(), LineProgress)
