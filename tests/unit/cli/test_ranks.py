"""Of the processes that torchrun starts the first one speaks; another one does if it fails and is let live."""

from __future__ import annotations

import json
import sys

import pytest

from edgeq.cli import ranks
from edgeq.core.errors import InputError


@pytest.fixture
def second(monkeypatch):
    """Let this process be the second one."""
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setattr(ranks.time, "sleep", lambda seconds: None)


def speak(code: int) -> None:
    with ranks.one_voice():
        sys.stdout.write("result\n")
        sys.stderr.write("error: no such file\n")
        sys.exit(code)


def test_the_first_process_speaks(monkeypatch, capsys):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(SystemExit):
        speak(0)
    assert capsys.readouterr() == ("result\n", "error: no such file\n")


def test_another_process_is_silent(second, capsys):
    with pytest.raises(SystemExit):
        speak(0)
    assert capsys.readouterr() == ("", "")


def test_another_process_that_fails_says_so_with_its_number(second, capsys):
    with pytest.raises(SystemExit) as ended:
        speak(3)
    assert ended.value.code == 3
    assert capsys.readouterr() == ("", "rank 1: error: no such file\n")


def test_a_rank_of_another_launcher_is_none(second, monkeypatch, capsys):
    monkeypatch.delenv("TORCHELASTIC_RUN_ID")
    with pytest.raises(SystemExit):
        speak(0)
    assert capsys.readouterr().out == "result\n"


def test_torchrun_is_given_the_reason(monkeypatch, tmp_path):
    path = tmp_path / "error.json"
    fault = InputError("no such file", why="w", mend="m")
    ranks.record(fault)
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(path))
    ranks.record(fault)
    said = json.loads(path.read_text())["message"]
    assert said["message"].startswith("InputError: no such file")
    assert said["extraInfo"]["py_callstack"] == str(fault)  # what torchrun prints
    ranks.record(ValueError("of ours"))
    assert (
        "ValueError: of ours"
        in json.loads(path.read_text())["message"]["extraInfo"]["py_callstack"]
    )
