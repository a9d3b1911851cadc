"""Runs the command line inside the test, and stands in for the pipeline where only the shell is tested."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from edgeq.cli.app import main
from edgeq.pipeline import make_options


@dataclass(frozen=True)
class Outcome:
    """What a command left: its exit code and both streams."""

    code: int
    out: str
    err: str


Command = Callable[..., Outcome]


@pytest.fixture
def edgeq(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Any
) -> Iterator[Command]:
    """Return a function that runs `edgeq` with its arguments, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    rooms = [logging.getLogger(name) for name in ("edgeq", "calib", "deploy")]
    before = [(room, list(room.handlers), room.level) for room in rooms]

    def run(*arguments: str) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["edgeq", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        text = capsys.readouterr()
        return Outcome(code=int(ended.value.code or 0), out=text.out, err=text.err)

    yield run
    for room, handlers, level in before:
        room.handlers[:] = handlers
        room.setLevel(level)


class Pipeline(ModuleType):
    """Answers for `edgeq.pipeline`; `answer` is called with the options of every verb.

    Attributes:
        claimed: the folder that a build makes its own, or None where it refuses it.
    """

    make_options = staticmethod(make_options)

    def __init__(self) -> None:
        super().__init__("edgeq.pipeline")
        self.answer: Callable[[Any], Any] = lambda options: None
        self.claimed: Path | None = None

    def run_build(self, options: Any, progress: Any, *, on_claim: Any) -> Any:
        if self.claimed is not None:
            on_claim(self.claimed)
        progress.start("read", 1, "files")
        progress.advance()
        progress.finish("one file")
        return self.answer(options)

    def run_synth(self, options: Any, progress: Any) -> Any:
        return self.answer(options)

    def run_explain(self, options: Any) -> Any:
        return self.answer(options)

    def plan_build(self, options: Any) -> Any:
        return self.answer(options)


@pytest.fixture
def pipeline(monkeypatch: pytest.MonkeyPatch) -> Pipeline:
    """Put the stand-in in the place of the pipeline."""
    stand_in = Pipeline()
    monkeypatch.setitem(sys.modules, "edgeq.pipeline", stand_in)
    return stand_in
