"""A build goes on where it was cut off, and ends in the same bytes; what is finished is not done again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

PROGRAM = Path(__file__).parent / "killed_runs.py"
STAGES = ("synthesize", "train", "write", "verify", "evaluate", "bundle", "results", "report")


@dataclass(frozen=True, kw_only=True)
class Point:
    """Where a run is killed, and how many stages are finished by then.

    Attributes:
        where: a stage (and how many of its steps are done), or a file that is written and not yet renamed.
        finished: how many of `STAGES`; None where there is no manifest yet.
        part: what the temporary file is called that stays, up to its random part.
        checkpoints: of the stage that was running.
    """

    where: dict[str, object]
    finished: int | None
    part: str = ""
    checkpoints: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Return the name of the test."""
        return "-".join(map(str, self.where.values()))


BATCHES = ("batch-0", "batch-1")

# In the order in which a build comes by. The runs follow each other in one folder, each going on from the last.
POINTS = [
    Point(where={"file": "manifest.json"}, finished=None, part=".manifest.json."),
    Point(where={"stage": "synthesize", "steps": 3}, finished=0),
    Point(where={"stage": "synthesize", "steps": 5}, finished=0, checkpoints=("batch-0",)),
    Point(where={"file": "samples.json"}, finished=0, part=".samples.json.", checkpoints=BATCHES),
    Point(where={"stage": "train", "steps": 2}, finished=1, checkpoints=("training",)),
    Point(where={"stage": "train", "steps": 3}, finished=1, checkpoints=("training",)),
    Point(
        where={"file": "trained.safetensors"},
        finished=1,
        part=".trained.safetensors.",
        checkpoints=("training",),
    ),
    Point(where={"stage": "write", "steps": 0}, finished=2),
    Point(where={"file": "model.qdq.onnx"}, finished=2, part=".model.qdq.onnx."),
    Point(where={"stage": "verify", "steps": 16}, finished=3),
    Point(where={"stage": "evaluate", "steps": 64}, finished=4),
    Point(where={"file": "outputs.json"}, finished=5, part=".bundle.part"),
    Point(where={"stage": "results", "steps": 0}, finished=6),
    Point(where={"file": "report.html"}, finished=7, part=".report.html."),
]


@dataclass(frozen=True)
class Resumed:
    """What the killed runs left one by one, and the folder and the words of the last run, which was let finish."""

    records: dict[str, dict]
    folder: Path
    last: object


@pytest.fixture(scope="module")
def resumed(build, edgeq_process, digits, tmp_path_factory) -> Resumed:
    folder = tmp_path_factory.mktemp("killed") / "out"
    words = {
        "model": str(digits / "digits_bn.onnx"),
        "out": str(folder),
        "eval_path": str(digits / "heldout.zip"),
        "target": "jetson-orin",
        "preset": "unit",
        "settings": [word for word in build.words if "=" in word],
    }
    done = subprocess.run(
        [sys.executable, str(PROGRAM), json.dumps(words), json.dumps([p.where for p in POINTS])],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    records = dict(zip([point.name for point in POINTS], json.loads(done.stdout), strict=True))
    return Resumed(records, folder, edgeq_process(*build.words, "--out", folder))


@pytest.mark.parametrize("point", POINTS, ids=lambda point: point.name)
def test_a_killed_run_keeps_finished_stages_and_the_last_checkpoint(resumed, point):
    record = resumed.records[point.name]
    assert record["signal"] == signal.SIGKILL
    expected = None if point.finished is None else sorted(STAGES[: point.finished])
    assert record["finished"] == expected
    assert [name for name in record["parts"] if not name.startswith(point.part or "?")] == []
    assert bool(record["parts"]) == bool(point.part)
    assert tuple(record["checkpoints"]) == point.checkpoints


def test_the_command_finishes_what_was_killed(resumed):
    assert resumed.last.code == 0, resumed.last.err
    assert resumed.last.ran() == ["report"]


def test_a_build_that_was_killed_ends_in_the_same_bytes(resumed, build, content):
    killed, unbroken = content(resumed.folder), content(build.folder)
    assert set(killed) == set(unbroken)
    assert [name for name in killed if killed[name] != unbroken[name]] == []


def test_a_finished_build_runs_nothing_and_says_so(finished, edgeq, content):
    times = {path: path.stat().st_mtime_ns for path in finished.folder.rglob("*.*")}
    done = edgeq(*finished.words, "--out", finished.folder)
    assert done.code == 0
    assert done.ran() == []
    kept = [line for line in done.err.splitlines() if "finished in an earlier run; kept" in line]
    assert len(kept) == len(STAGES)
    assert done.out.splitlines()[:-1] == finished.outcome.out.splitlines()[:-1]
    changed = {path.name for path, time in times.items() if path.stat().st_mtime_ns != time}
    assert changed <= {"log.jsonl"}


@pytest.mark.parametrize(
    ("name", "stage"),
    [
        ("samples/samples.npy", "synthesize"),
        ("samples/preview.png", "synthesize"),
        ("trained.safetensors", "train"),
        ("plan.json", "train"),
        ("model.qdq.onnx", "write"),
        ("codes.json", "verify"),
        ("evaluation.json", "evaluate"),
        ("bundle/build.sh", "bundle"),
        ("results.json", "results"),
        ("report.html", "report"),
    ],
)
@pytest.mark.parametrize("is_deleted", [True, False], ids=["deleted", "changed"])
def test_a_result_that_is_gone_or_changed_is_made_again(
    finished, build, edgeq, content, name, stage, is_deleted
):
    path = finished.folder / name
    if is_deleted:
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-1] + b"!")
    done = edgeq(*finished.words, "--out", finished.folder)
    assert done.code == 0, done.err
    # This process may add up with other threads than the one that built: the last digits of the agreement differ then,
    # and the results with them.
    inexact = {"agreement.json", "results.json", "report.html"} if stage == "verify" else set()
    after = {"results", "report"} if inexact else set()
    assert [item for item in done.ran() if item not in after] == [stage]
    again, first = content(finished.folder), content(build.folder)
    assert {item for item in first if again[item] != first[item]} <= inexact


def test_pictures_given_later_are_evaluated_and_nothing_else_is_done(edgeq, digits, tiny, tmp_path):
    model, pictures = digits / "digits_bn.onnx", ("--eval", digits / "heldout.zip")
    words = ("build", model, "--target", "cpu", *tiny, "--preset", "unit", "--out", tmp_path / "o")
    assert edgeq(*words).code == 0
    done = edgeq(*words, *pictures)
    assert done.ran() == ["evaluate", "results", "report"]
    assert "top-1 on 360 pictures" in done.out


def test_other_figures_in_the_same_folder_are_another_build(finished, edgeq):
    done = edgeq(*finished.words, "--effort", "quick", "--out", finished.folder)
    assert done.code == 3
    assert "another recipe" in done.err


def test_another_number_of_threads_is_another_build(finished, edgeq):
    torch.set_num_threads(2)
    try:
        done = edgeq(*finished.words, "--out", finished.folder)
    finally:
        torch.set_num_threads(1)
    assert done.code == 3
    assert "another machine" in done.err
