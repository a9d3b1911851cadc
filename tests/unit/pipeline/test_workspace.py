from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from edgeq.core.errors import InputError
from edgeq.core.files import write_bytes
from edgeq.core.progress import NoProgress
from edgeq.pipeline.workspace import Stage, Workspace

BUILD = {"edgeq": "0.1.0", "model": "abc", "seed": 0}
OTHER = {**BUILD, "seed": 1}


class Notes(NoProgress):
    """Keeps the closing lines."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def finish(self, summary: str) -> None:
        self.lines.append(summary)


class Fault(Exception):
    """Ends a stage."""


def writes(folder: Path, name: str, data: bytes, ran: list[str]) -> Callable[[], Sequence[str]]:
    def produce() -> Sequence[str]:
        ran.append(name)
        write_bytes(folder / name, data)
        return [name]

    return produce


def fails() -> Sequence[str]:
    raise Fault


def run(
    folder: Path, *, identity: dict[str, Any] = BUILD, first: bytes = b"1", overwrite: bool = False
) -> list[str]:
    """Run three stages, the second of which reads the first; return the names of those that ran."""
    ran: list[str] = []
    work = Workspace(folder, identity, overwrite=overwrite)
    with work.claimed():
        for stage in (
            Stage(name="a", produce=writes(folder, "a", first, ran)),
            Stage(name="b", after=("a",), produce=writes(folder, "b", b"2", ran)),
            Stage(name="c", produce=writes(folder, "c", b"3", ran)),
        ):
            work.run(stage, NoProgress())
    return ran


def names_in(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def test_a_finished_stage_is_kept_and_said_to_be(tmp_path: Path) -> None:
    run(tmp_path / "out")
    work, notes = Workspace(tmp_path / "out", BUILD, overwrite=False), Notes()
    with work.claimed():
        work.run(Stage(name="a", produce=fails), notes)
    assert notes.lines == ["finished in an earlier run; kept"]


@pytest.mark.parametrize("name", ["a", "b", "c"])
def test_a_stage_whose_file_is_gone_runs_again_alone(tmp_path: Path, name: str) -> None:
    run(tmp_path / "out")
    (tmp_path / "out" / name).unlink()
    assert run(tmp_path / "out") == [name]


def test_a_stage_whose_file_was_changed_runs_again_alone(tmp_path: Path) -> None:
    run(tmp_path / "out")
    (tmp_path / "out" / "a").write_bytes(b"by hand")
    assert run(tmp_path / "out") == ["a"]


def test_a_stage_runs_again_where_what_it_reads_came_out_different(tmp_path: Path) -> None:
    run(tmp_path / "out")
    (tmp_path / "out" / "a").unlink()
    assert run(tmp_path / "out", first=b"4") == ["a", "b"]


def test_a_stage_runs_again_for_other_inputs(tmp_path: Path) -> None:
    ran: list[str] = []
    work = Workspace(tmp_path, BUILD, overwrite=False)
    with work.claimed():
        for value in (1, 1, 2):
            produce = writes(tmp_path, "a", b"1", ran)
            work.run(Stage(name="a", inputs={"value": value}, produce=produce), NoProgress())
    assert ran == ["a", "a"]


def test_a_stage_that_other_code_finished_runs_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(tmp_path / "out")
    monkeypatch.setattr("edgeq.pipeline.workspace.digest_sources", lambda: "other")
    assert run(tmp_path / "out") == ["a", "b", "c"]
    assert run(tmp_path / "out") == []


def test_nothing_is_changed_before_the_folder_is_claimed(tmp_path: Path) -> None:
    Workspace(tmp_path / "new", BUILD, overwrite=False)
    run(tmp_path / "old")
    before = names_in(tmp_path)
    Workspace(tmp_path / "old", OTHER, overwrite=True)
    assert names_in(tmp_path) == before == {"old", *(f"old/{n}" for n in ("manifest.json", *"abc"))}


def test_a_run_in_which_no_stage_finished_leaves_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "x" / "y"
    work = Workspace(folder, BUILD, overwrite=False)

    def produce() -> Sequence[str]:
        write_bytes(folder / "half", b"")
        raise Fault

    with pytest.raises(Fault), work.claimed():
        work.run(Stage(name="a", produce=produce), NoProgress())
    assert names_in(tmp_path) == set()


def test_a_folder_that_was_there_stays_and_is_left_empty(tmp_path: Path) -> None:
    work = Workspace(tmp_path, BUILD, overwrite=False)
    with pytest.raises(Fault), work.claimed():
        work.run(Stage(name="a", produce=fails), NoProgress())
    assert list(tmp_path.iterdir()) == []


def test_a_failing_stage_leaves_the_finished_ones(tmp_path: Path) -> None:
    run(tmp_path)
    work = Workspace(tmp_path, BUILD, overwrite=False)
    with pytest.raises(Fault), work.claimed():
        work.run(Stage(name="d", produce=fails), NoProgress())
    assert run(tmp_path) == []


def test_a_folder_in_which_the_first_stage_was_killed_is_taken_over(tmp_path: Path) -> None:
    child = os.fork()
    if child == 0:
        with Workspace(tmp_path, BUILD, overwrite=False).claimed():
            (tmp_path / "half").write_bytes(b"")
            os.kill(os.getpid(), signal.SIGKILL)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    assert names_in(tmp_path) == {"manifest.json", "half"}
    assert run(tmp_path) == ["a", "b", "c"]


@pytest.mark.parametrize("identity", [BUILD, OTHER])
def test_a_second_run_in_the_same_folder_is_refused_and_changes_nothing(
    tmp_path: Path, identity: dict[str, Any]
) -> None:
    run(tmp_path)
    with Workspace(tmp_path, BUILD, overwrite=False).claimed():
        (tmp_path / ".a.x1y2.part").write_bytes(b"")
        before = names_in(tmp_path)
        second = Workspace(tmp_path, identity, overwrite=True)
        with pytest.raises(InputError, match="another run of edgeq is at work"), second.claimed():
            pass
        assert names_in(tmp_path) == before
    assert run(tmp_path) == []


def test_what_another_run_finished_since_the_first_look_is_kept(tmp_path: Path) -> None:
    work = Workspace(tmp_path, BUILD, overwrite=False)
    run(tmp_path)
    with work.claimed():
        work.run(Stage(name="a", produce=fails), NoProgress())
    assert run(tmp_path) == []


def test_a_file_system_without_locks_is_used_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuses(handle: int, operation: int) -> None:
        raise OSError(errno.EBADF, "Bad file descriptor")

    monkeypatch.setattr(fcntl, "flock", refuses)
    assert run(tmp_path) == ["a", "b", "c"]


def test_a_folder_in_which_the_first_manifest_was_being_written_is_taken_over(
    tmp_path: Path,
) -> None:
    (tmp_path / ".manifest.json.x1y2.part").write_bytes(b"{")
    assert run(tmp_path) == ["a", "b", "c"]
    assert names_in(tmp_path) == {"manifest.json", "a", "b", "c"}


def test_what_a_killed_run_was_writing_is_removed(tmp_path: Path) -> None:
    run(tmp_path)
    (tmp_path / ".a.x1y2.part").write_bytes(b"")
    for folder in (".bundle.part", ".bundle.old", "samples"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / ".b.x1y2.part").write_bytes(b"")
    run(tmp_path)
    assert names_in(tmp_path) == {"manifest.json", "a", "b", "c", "samples"}


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("notes.txt", "mine"),
        (".notes.part", "mine"),
        ("manifest.json", '{"name": "a web application"}'),
        ("manifest.json", "[]"),
    ],
)
def test_files_of_others_are_refused_and_untouched(
    tmp_path: Path, name: str, text: str, overwrite: bool
) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match="not of an edgeq build"):
        Workspace(tmp_path, BUILD, overwrite=overwrite)
    assert (tmp_path / name).read_text() == text
    assert names_in(tmp_path) == {name}


@pytest.mark.parametrize(
    "stages",
    [[], {"a": 5}, {"a": {}}, {"a": {"digest": "d", "files": ["a"], "seconds": 1}}],
    ids=["list", "number", "empty", "files"],
)
def test_a_damaged_manifest_is_refused_and_nothing_is_deleted(
    tmp_path: Path, stages: object
) -> None:
    run(tmp_path)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    (tmp_path / "manifest.json").write_text(json.dumps({**manifest, "stages": stages}))
    for overwrite in (False, True):
        with pytest.raises(InputError, match=r"or its manifest\.json is damaged"):
            Workspace(tmp_path, BUILD, overwrite=overwrite)
    assert names_in(tmp_path) == {"manifest.json", "a", "b", "c"}


def test_a_folder_in_one_that_is_closed_is_refused_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuses(**_: Any) -> Any:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("tempfile.TemporaryFile", refuses)
    with pytest.raises(InputError, match="the output folder cannot be used: Permission denied"):
        Workspace(tmp_path / "out", BUILD, overwrite=False)


def test_another_build_is_refused_with_what_differs(tmp_path: Path) -> None:
    run(tmp_path)
    with pytest.raises(InputError, match="holds another build") as caught:
        Workspace(tmp_path, {**BUILD, "seed": 1, "model": "b"}, overwrite=False)
    assert "another model, seed" in caught.value.why


def test_a_build_of_another_version_is_refused(tmp_path: Path) -> None:
    run(tmp_path)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    (tmp_path / "manifest.json").write_text(json.dumps({**manifest, "schema": 0}))
    with pytest.raises(InputError, match="holds another build") as caught:
        Workspace(tmp_path, BUILD, overwrite=False)
    assert "another version of edgeq" in caught.value.why


def test_overwrite_replaces_another_build_behind_a_link(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "out").symlink_to("disk")
    run(tmp_path / "out")
    (tmp_path / "out" / "more").mkdir()
    assert run(tmp_path / "out", identity=OTHER, overwrite=True) == ["a", "b", "c"]
    assert names_in(tmp_path / "disk") == {"manifest.json", "a", "b", "c"}


def test_overwrite_keeps_what_the_same_build_has_finished(tmp_path: Path) -> None:
    run(tmp_path)
    assert run(tmp_path, overwrite=True) == []


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path: Path, overwrite: bool) -> None:
    (tmp_path / "out").write_text("mine")
    with pytest.raises(InputError, match="is a file"):
        Workspace(tmp_path / "out", BUILD, overwrite=overwrite)
    assert (tmp_path / "out").read_text() == "mine"


def test_a_name_that_the_file_system_refuses_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="File name too long"):
        Workspace(tmp_path / ("x" * 300), BUILD, overwrite=False)


def test_a_folder_below_a_file_is_an_input_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match="Not a directory"):
        Workspace(tmp_path / "file" / "out", BUILD, overwrite=False)
    assert names_in(tmp_path) == {"file"}
