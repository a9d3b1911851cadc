"""Progress for people: a live bar on a terminal, a line now and then elsewhere, and JSON lines in a log file.

Both forms write to standard error, so that standard output holds results only. `make_progress` chooses between them.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

from edgeq.core.errors import EdgeqBug, InputError

LINE_EVERY_PCT = 10
LINE_EVERY_S = 30.0


@dataclass(slots=True, kw_only=True)
class _Stage:
    """The stage that is running; times in seconds of the caller's clock."""

    name: str
    total: int
    unit: str
    started: float
    said_at: float
    said_pct: float = 0.0
    done: int = 0
    figures: dict[str, float] = field(default_factory=dict)

    @property
    def done_pct(self) -> float:
        return 100 * self.done / self.total if self.total > 0 else 0.0

    def figures_text(self) -> str:
        return "  ".join(f"{name} {value:.4g}" for name, value in self.figures.items())

    def rate(self, now: float) -> float:
        return self.done / max(now - self.started, 1e-9)

    def take_turn(self, now: float) -> bool:
        """Return true, once, when a tenth of the work or thirty seconds passed since the last time."""
        is_due = (
            self.done_pct - self.said_pct >= LINE_EVERY_PCT or now - self.said_at >= LINE_EVERY_S
        )
        if is_due:
            self.said_at, self.said_pct = now, self.done_pct - self.done_pct % LINE_EVERY_PCT
        return is_due


class ConsoleProgress:
    """Writes one closing line a stage, and the log; the subclasses show what happens in between.

    Args:
        console: where the lines go.
        clock: seconds, never going back.
    """

    def __init__(self, console: Console, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.console = console
        self._log: Path | None = None
        self._clock = clock
        self._stage: _Stage | None = None
        self._records: list[str] = []

    def __enter__(self) -> ConsoleProgress:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.hide()

    def log_to(self, path: Path) -> None:
        """Append to the log at `path`, as JSON lines, what was and will be heard; written when a stage ends."""
        self._log = path

    def start(self, stage: str, total: int, unit: str) -> None:
        """Open `stage`."""
        if self._stage is not None:
            msg = f"stage '{stage}' starts before '{self._stage.name}' has ended"
            raise EdgeqBug(msg)
        now = self._clock()
        self._stage = _Stage(name=stage, total=total, unit=unit, started=now, said_at=now)
        self._record("start", self._stage)
        self.show(self._stage, now)

    def advance(self, n: int = 1, **figures: float) -> None:
        """Count `n` more steps."""
        stage, now = self._running(), self._clock()
        stage.done += n
        stage.figures.update(figures)
        is_due = stage.take_turn(now)
        if is_due:
            self._record("advance", stage, figures=_finite(stage.figures))
        self.update(stage, now, is_due=is_due)

    def finish(self, summary: str) -> None:
        """Close the stage with one line, and write its part of the log."""
        stage = self._running()
        seconds = self._clock() - stage.started
        self.hide()
        self._stage = None
        self._say(f"{stage.name:<12}{seconds:8.1f} s  {summary}")
        self._record("finish", stage, seconds=round(seconds, 3), summary=summary)
        self._write_log()

    def show(self, stage: _Stage, now: float) -> None:
        """Show that `stage` began."""

    def update(self, stage: _Stage, now: float, *, is_due: bool) -> None:
        """Show how far `stage` is; `is_due` about every ten per cent or thirty seconds."""

    def hide(self) -> None:
        """Take away what `show` left on the screen; harmless when nothing is shown."""

    def _running(self) -> _Stage:
        if self._stage is None:
            msg = "progress was told of a step outside any stage"
            raise EdgeqBug(msg)
        return self._stage

    def _say(self, line: str) -> None:
        self.console.print(line.rstrip(), markup=False, highlight=False, soft_wrap=True)

    def _record(self, event: str, stage: _Stage, **more: Any) -> None:
        record = {
            "time": datetime.now(timezone.utc).isoformat(timespec="milliseconds"),
            "event": event,
            "stage": stage.name,
            "done": stage.done,
            "total": stage.total,
            "unit": stage.unit,
            **more,
        }
        self._records.append(json.dumps(record, allow_nan=False) + "\n")

    def _write_log(self) -> None:
        if self._log is None:
            return
        try:
            with self._log.open("a", encoding="utf-8") as file:
                file.writelines(self._records)
        except OSError as error:
            raise InputError(
                f"cannot write the log: {error.strerror}",
                why="the log of a build lies in its output folder; finished stages are kept",
                mend="free some space or mend the permissions, and run the same command again",
                path=self._log,
            ) from error
        self._records.clear()


class LineProgress(ConsoleProgress):
    """Writes a line every ten per cent or thirty seconds: for files, pipes and build servers."""

    def update(self, stage: _Stage, now: float, *, is_due: bool) -> None:
        """Write a line when it is due, but for the last step, which has the closing line."""
        if not is_due or stage.done >= stage.total > 0:
            return
        rate = stage.rate(now)
        parts = [
            f"{stage.done}/{stage.total} {stage.unit}"
            if stage.total > 0
            else f"{stage.done} {stage.unit}"
        ]
        if stage.total > 0:
            parts.insert(0, f"{stage.done_pct:3.0f} %")
        parts.append(f"{rate:.3g} {stage.unit}/s")
        if stage.total > 0 and rate > 0:
            parts.append(f"{(stage.total - stage.done) / rate:.0f} s left")
        self._say("  ".join([f"{stage.name:<12}", *parts, stage.figures_text()]))


class BarProgress(ConsoleProgress):
    """Shows a live bar with rate, time left and the figures: for a terminal."""

    _bar: RichProgress | None = None
    _task: TaskID = TaskID(0)

    def show(self, stage: _Stage, now: float) -> None:
        """Open the bar."""
        self._bar = RichProgress(
            TextColumn("{task.description:<12}", markup=False),
            BarColumn(bar_width=24),
            TextColumn("{task.completed:.0f}/{task.total:.0f} {task.fields[unit]}", markup=False)
            if stage.total > 0
            else TextColumn("{task.completed:.0f} {task.fields[unit]}", markup=False),
            TextColumn("{task.fields[rate]}", markup=False),
            TimeRemainingColumn(compact=True),
            TextColumn("{task.fields[figures]}", markup=False),
            console=self.console,
            transient=True,
        )
        self._task = self._bar.add_task(
            stage.name,
            total=stage.total if stage.total > 0 else None,
            unit=stage.unit,
            rate="",
            figures="",
        )
        self._bar.start()

    def update(self, stage: _Stage, now: float, *, is_due: bool) -> None:
        """Move the bar."""
        if self._bar is not None:
            self._bar.update(
                self._task,
                completed=stage.done,
                rate=f"{stage.rate(now):.3g} {stage.unit}/s",
                figures=stage.figures_text(),
            )

    def hide(self) -> None:
        """Remove the bar and give the cursor back."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def make_progress() -> ConsoleProgress:
    """Return the form that suits standard error: a bar on a terminal, lines elsewhere."""
    console = Console(stderr=True)
    kind = BarProgress if console.file.isatty() else LineProgress
    return kind(console)


def _finite(figures: dict[str, float]) -> dict[str, float | None]:
    """Return the figures with None for NaN and infinity, which JSON does not have."""
    return {name: float(value) if math.isfinite(value) else None for name, value in figures.items()}
