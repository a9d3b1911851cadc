from __future__ import annotations

import errno
import logging
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edgeq import __version__
from edgeq.cli.app import main
from edgeq.core.errors import (
    BuildError,
    CalibError,
    DeviceError,
    EdgeqBug,
    EdgeqError,
    GateFailed,
    InputError,
    MissingDependencyError,
    ModelError,
    NumericsError,
    TargetError,
)

VERBS = (
    "build",
    "deploy",
    "device-check",
    "synth",
    "explain",
    "export",
    "compare",
    "engine",
    "estimate",
    "lint",
    "report",
    "weight-only",
    "targets",
    "recipes",
    "doctor",
)
HELP_CPU_S = 0.4  # the limit that the project sets itself
BUILD = ("build", "model.onnx", "--target", "cpu")


def raising(error: BaseException) -> Any:
    def answer(options: Any) -> Any:
        raise error

    return answer


@pytest.mark.skipif(not hasattr(os, "wait4"), reason="CPU time of one child is a Unix figure")
def test_help_takes_less_cpu_time_than_the_limit() -> None:
    seconds = []
    for _ in range(3):
        child = subprocess.Popen(
            [sys.executable, "-m", "edgeq.cli.app", "--help"], stdout=subprocess.DEVNULL
        )
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        assert child.returncode == 0
        seconds.append(usage.ru_utime + usage.ru_stime)
    assert min(seconds) < HELP_CPU_S


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_with_an_example(edgeq: Any, verb: str) -> None:
    done = edgeq(verb, "--help")
    assert done.code == 0
    assert f"Example: edgeq {verb}" in done.out


def test_help_lists_every_verb(edgeq: Any) -> None:
    done = edgeq("--help")
    assert done.code == 0
    assert [verb for verb in VERBS if f"\n  {verb} " not in done.out] == []


def test_help_cuts_no_sentence_short(edgeq: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    verbs = edgeq("--help").out.partition("Commands:")[2]
    assert [line for line in verbs.splitlines() if line.endswith("...")] == []


def test_version_is_that_of_the_package(edgeq: Any) -> None:
    assert edgeq("--version").out == f"edgeq {__version__}\n"


@pytest.mark.parametrize(
    "arguments",
    [("frob",), ("build",), ("build", "m.onnx"), (*BUILD, "--frob"), (*BUILD, "--seed", "x")],
    ids=" ".join,
)
def test_wrong_usage_ends_with_2(edgeq: Any, arguments: tuple[str, ...]) -> None:
    done = edgeq(*arguments)
    assert done.code == 2
    assert "Usage: edgeq" in done.err
    assert done.out == ""


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (InputError, 3),
        (ModelError, 3),
        (NumericsError, 3),
        (CalibError, 3),
        (TargetError, 4),
        (MissingDependencyError, 5),
        (BuildError, 6),
        (DeviceError, 6),
        (GateFailed, 7),
    ],
)
def test_an_error_becomes_its_message_and_its_code(
    edgeq: Any, pipeline: Any, kind: type[EdgeqError], code: int
) -> None:
    pipeline.answer = raising(kind("it broke", why="it was old", mend="buy a new one"))
    done = edgeq(*BUILD)
    assert done.code == code
    assert "error: it broke\n  why:  it was old\n  mend: buy a new one\n" in done.err
    assert done.out == ""


@pytest.mark.parametrize("error", [EdgeqBug("two decisions on 'x'"), KeyError("x")], ids=repr)
def test_a_fault_of_ours_ends_with_70_and_keeps_the_trace(
    edgeq: Any, pipeline: Any, tmp_path: Path, error: Exception
) -> None:
    pipeline.answer = raising(error)
    done = edgeq(*BUILD)
    assert done.code == 70
    assert f"internal error: {type(error).__name__}: {error}" in done.err
    (trace,) = tmp_path.glob("edgeq-fault-*.txt")
    assert f"report it, with this file: {trace}" in done.err
    assert "Traceback" in trace.read_text()


def test_a_file_that_ended_too_early_is_no_silent_abort(edgeq: Any, pipeline: Any) -> None:
    pipeline.answer = raising(EOFError("No data left in file"))
    done = edgeq(*BUILD)
    assert done.code == 70
    assert "internal error: EdgeqBug: EOFError: No data left in file" in done.err


def test_a_fault_is_told_where_no_file_can_be_written(
    edgeq: Any, pipeline: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuses(*_: Any, **__: Any) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("tempfile.NamedTemporaryFile", refuses)
    pipeline.answer = raising(KeyError("x"))
    done = edgeq(*BUILD)
    assert done.code == 70
    assert "report it, with these lines:\nedgeq " in done.err
    assert done.err.rstrip().endswith("KeyError: 'x'")


def test_a_name_that_is_not_utf_8_ends_no_run(edgeq: Any, pipeline: Any, tmp_path: Path) -> None:
    lines = SimpleNamespace(summary_lines=list, folder=Path("m\udcff.cpu"))
    pipeline.answer = lambda options: lines
    done = edgeq("build", "m\udcff.onnx", "--target", "cpu")
    assert (done.code, done.out) == (0, "results: m\\udcff.cpu\n")
    pipeline.answer = raising(KeyError("x"))
    assert edgeq("build", "m\udcff.onnx", "--target", "cpu").code == 70
    (trace,) = tmp_path.glob("edgeq-fault-*.txt")
    assert "build m\\udcff.onnx" in trace.read_text("utf-8")


def test_a_table_is_no_fault_without_standard_output(edgeq: Any) -> None:
    words = [sys.executable, "-m", "edgeq.cli.app", "targets"]
    closed = ["sh", "-c", 'exec "$@" >&-', "sh", *words]
    done = subprocess.run(closed, stderr=subprocess.PIPE, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_path_that_the_file_system_refuses_is_no_fault_of_ours(
    edgeq: Any, pipeline: Any, tmp_path: Path
) -> None:
    pipeline.answer = raising(PermissionError(errno.EACCES, "Permission denied", "closed/x.pth"))
    done = edgeq(*BUILD)
    assert (done.code, done.out) == (3, "")
    assert (
        "error: the file system refuses a path: Permission denied\n  in:   file 'closed/x.pth'"
        in done.err
    )
    done = edgeq("report", ".", "--out", "a" * 300)
    assert (done.code, done.out) == (3, "")
    assert "File name too long" in done.err
    assert not list(tmp_path.glob("edgeq-fault-*.txt"))


def test_a_full_disk_behind_standard_output_is_no_fault_of_ours(
    edgeq: Any, pipeline: Any, tmp_path: Path
) -> None:
    pipeline.answer = raising(OSError(errno.ENOSPC, "No space left on device"))
    done = edgeq(*BUILD)
    assert (done.code, done.out) == (3, "")
    assert (
        "error: no room to write the result\n  why:  a file system or a quota is full" in done.err
    )
    assert not list(tmp_path.glob("edgeq-fault-*.txt"))


@pytest.mark.parametrize("words", [BUILD, ("synth", *BUILD[1:2])])
def test_an_interrupt_ends_with_130_and_says_that_the_work_resumes(
    edgeq: Any, pipeline: Any, words: tuple[str, ...]
) -> None:
    pipeline.answer = raising(KeyboardInterrupt())
    done = edgeq(*words)
    assert done.code == 130
    assert "the same command goes on from the last checkpoint" in done.err


def test_an_interrupt_promises_no_resume_where_there_is_none(edgeq: Any, pipeline: Any) -> None:
    pipeline.answer = raising(KeyboardInterrupt())
    done = edgeq("explain", "model.onnx", "--target", "cpu")
    assert (done.code, done.err.splitlines()[-1]) == (130, "interrupted")


def test_a_room_speaks_on_standard_error_and_warns_once(edgeq: Any, pipeline: Any) -> None:
    def answer(options: Any) -> Any:
        for _ in range(2):
            logging.getLogger("calib.loop").warning("%d samples were dropped", 3)
        logging.getLogger("edgeq.graph").info("read %s", options.model)
        logging.getLogger("edgeq.graph").debug("a detail")
        return SimpleNamespace(lines=list)

    pipeline.answer = answer
    done = edgeq(*BUILD, "--dry-run")
    assert done.err.splitlines()[1:] == ["warning: 3 samples were dropped", "read model.onnx"]


@pytest.mark.parametrize(("given", "wanted"), [(None, "passive"), ("active", "active")])
def test_threads_sleep_while_they_wait_unless_the_user_wants_them_to_spin(
    monkeypatch, given, wanted
):
    monkeypatch.setenv("OMP_WAIT_POLICY", str(given))
    if given is None:
        monkeypatch.delenv("OMP_WAIT_POLICY")
    monkeypatch.setattr(sys, "argv", ["edgeq", "--version"])
    with pytest.raises(SystemExit):
        main()
    assert os.environ["OMP_WAIT_POLICY"] == wanted
