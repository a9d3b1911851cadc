"""Runs the command line as a user does, and holds one small finished build that many tests read."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import pytest
import torch

from edgeq.cli.app import main

DIGITS = Path(__file__).parents[2] / "examples" / "digits"

# Enough to run every stage, and no more.
FIGURES = {
    "synthesis.samples": "16",
    "synthesis.leaves_per_sample": "0",
    "synthesis.batch": "8",
    "synthesis.iterations": "3",
    "training.steps": "4",
    "training.batch": "8",
    "training.range_samples": "16",
}


@dataclass(frozen=True)
class Outcome:
    """What a command left: its exit code and both streams."""

    code: int
    out: str
    err: str

    def stages(self) -> dict[str, str]:
        """Return the closing line of each stage, by stage."""
        lines = [line.split(maxsplit=3) for line in self.err.splitlines()]
        return {words[0]: words[3] for words in lines if len(words) == 4 and words[2] == "s"}

    def ran(self) -> list[str]:
        """Return the stages that make files and were not kept from an earlier run."""
        kept = "finished in an earlier run; kept"
        return [
            stage
            for stage, summary in self.stages().items()
            if summary != kept and stage not in {"read", "prove", "statistics", "placement"}
        ]


@dataclass(frozen=True)
class Build:
    """A finished build: the words after `edgeq`, without --out, and what the command left."""

    words: tuple[str, ...]
    folder: Path
    outcome: Outcome


Edgeq = Callable[..., Outcome]


@pytest.fixture(scope="session")
def digits() -> Path:
    """Return the folder of the example."""
    return DIGITS


@pytest.fixture(scope="session")
def tiny() -> tuple[str, ...]:
    """Return the words that make a build small."""
    return tuple(word for key, value in FIGURES.items() for word in ("--set", f"{key}={value}"))


@pytest.fixture(scope="session")
def edgeq() -> Iterator[Edgeq]:
    """Return a function that runs `edgeq` with its words inside this process."""
    rooms = [logging.getLogger(name) for name in ("edgeq", "calib", "deploy")]
    before = [(room, list(room.handlers), room.level) for room in rooms]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)

    def run(*words: object) -> Outcome:
        out, err = io.StringIO(), io.StringIO()
        with (
            mock.patch.object(sys, "argv", ["edgeq", *map(str, words)]),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
            pytest.raises(SystemExit) as ended,
        ):
            main()
        return Outcome(code=int(ended.value.code or 0), out=out.getvalue(), err=err.getvalue())

    yield run
    torch.set_num_threads(threads)
    for room, handlers, level in before:
        room.handlers[:] = handlers
        room.setLevel(level)


@pytest.fixture(scope="session")
def edgeq_process() -> Edgeq:
    """Return a function that runs `edgeq` in a process of its own, with one thread."""

    def run(*words: object, preexec: Callable[[], None] | None = None) -> Outcome:
        done = subprocess.run(
            [sys.executable, "-m", "edgeq.cli.app", *map(str, words)],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=False,
            preexec_fn=preexec,
        )
        return Outcome(code=done.returncode, out=done.stdout, err=done.stderr)

    return run


@pytest.fixture(scope="session")
def build(edgeq_process: Edgeq, tiny: tuple[str, ...], tmp_path_factory) -> Build:
    """Return the digits network built for a board; tests read it and change nothing."""
    folder = tmp_path_factory.mktemp("build") / "out"
    words = (
        "build",
        str(DIGITS / "digits_bn.onnx"),
        *("--target", "jetson-orin", "--preset", "unit"),
        *("--eval", str(DIGITS / "heldout.zip")),
        *tiny,
    )
    outcome = edgeq_process(*words, "--out", folder)
    assert outcome.code == 0, outcome.err
    return Build(words=words, folder=folder, outcome=outcome)


@pytest.fixture
def finished(build: Build, tmp_path: Path) -> Build:
    """Return a copy of the build, to be changed."""
    folder = tmp_path / "finished"
    shutil.copytree(build.folder, folder)
    return Build(words=build.words, folder=folder, outcome=build.outcome)


def _content(folder: Path) -> dict[str, bytes]:
    """Return the bytes of every file that the user asked for, by its name in the folder."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in {"manifest.json", "log.jsonl"}
    }


@pytest.fixture(scope="session")
def content() -> Callable[[Path], dict[str, bytes]]:
    """Return a function from a folder to its files, without the two that tell the time."""
    return _content
