"""Copies a bundle to a board, runs it there, brings the report back. Main entry: `deploy_bundle`.

A cut does no harm: what was sent stays (`deploy.remote_folder`), and build.sh uses an engine that is whole.
"""

from __future__ import annotations

import json
import posixpath
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploy.board.run import REPORT
from deploy.remote_folder import clean, hold, size_of, upload
from deploy.sealed import SUMS, verify_bundle
from deploy.ssh import Access, Board, connect, faults, lost_connection
from edgeq.core import errors
from edgeq.core.errors import BuildError, DeviceError, EdgeqError, GateFailed, InputError
from edgeq.core.files import digest_file, require_writable, write_bytes
from edgeq.core.progress import NoProgress, Progress
from edgeq.core.serial import Spec

# What asks TensorRT on the board, and what it writes.
CHECK, CHECKED = "device_check.sh", "device_check.json"
_LARGEST_REPORT = 64 << 20
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class DeployResult(Spec):
    """What a run on a board came to.

    Attributes:
        address: of the board.
        folder: on the board.
        report: where the board's report lies on this machine.
        passed: whether the engine's outputs are right.
        verdict: the report's own sentence.
        sent_files: how many files were copied; the others were there.
        sent_bytes: of these.
        kept: what `--clean` left on the board, because it is none of ours.
    """

    address: str
    folder: str
    report: str
    passed: bool
    verdict: str
    sent_files: int
    sent_bytes: int
    kept: tuple[str, ...] = ()


def deploy_bundle(
    bundle: Path,
    access: Access,
    *,
    out: Path,
    folder: str | None = None,
    words: Sequence[str] = (),
    is_clean: bool = False,
    is_checked: bool = True,
    say: Say,
    progress: Progress | None = None,
) -> DeployResult:
    """Copy the bundle in the folder `bundle`, run it, write the board's report to `out`.

    Args:
        bundle: a folder.
        access: the board.
        out: a file.
        folder: on the board; named after the bundle's seal in the home folder if not given.
        words: for build.sh.
        is_clean: leave nothing on the board, however the run ends.
        is_checked: ask TensorRT there the questions of the bundle first, once, and stop if the board cannot answer.
        say: takes each line that the board prints, as it comes.
        progress: who hears of the upload.

    Raises:
        InputError: if the bundle was changed, `out` cannot be written, or `folder` is no folder of its own.
        DeviceError: if the board cannot be reached or used, another run holds the folder, or the connection is lost.
        EdgeqError: the fault that ended the run on the board, of its class; wrong outputs are no such fault.
    """
    sums = verify_bundle(bundle)
    if "build.sh" not in sums:
        raise InputError(
            "this bundle builds no engine",
            why="its target runs ONNX Runtime; run.sh checks the model there",
            mend="copy it and run run.sh, or build for a TensorRT target",
            path=bundle,
        )
    sums[SUMS] = digest_file(bundle / SUMS)
    place = _choose_folder(folder, sums[SUMS])
    require_writable(out)
    with connect(access) as board, _faults_told(board, place):
        _require_own_folder(board, place)
        with hold(board, place):
            kept: Sequence[str] = ()
            try:
                sent = upload(board, bundle, place, sums, progress or NoProgress())
                if is_checked and CHECK in sums:
                    _check(
                        board, place, out.with_name(CHECKED), is_again="--rebuild" in words, say=say
                    )
                report, code = _run(board, place, ["./build.sh", *words], REPORT, say)
            finally:
                if is_clean:
                    kept = clean(board, place, sums)
    if report is not None:
        write_bytes(out, report)
    found = _judge(report, code, out)
    return DeployResult(
        address=access.address,
        folder=place,
        report=str(out),
        passed=bool(found["passed"]),
        verdict=str(found["verdict"]),
        sent_files=len(sent),
        sent_bytes=sum((bundle / name).stat().st_size for name in sent),
        kept=tuple(kept),
    )


def require_pass(result: DeployResult) -> None:
    """Check that the engine's outputs are right.

    Raises:
        GateFailed: if they are not.
    """
    if not result.passed:
        raise GateFailed(
            f"on {result.address}: {result.verdict}",
            why="the engine differs from the float network by more than the bundle allows",
            mend=f"look at 'comparison' in {result.report}; which layers run in INT8 is told under 'engine'",
        )


def _choose_folder(asked: str | None, seal: str) -> str:
    """Return the folder on the board; a relative one lies in the home folder."""
    if asked is None:
        return f"edgeq-{seal[:12]}"
    name = asked.removeprefix("~/")
    if not name.strip("/") or any(not char.isprintable() for char in name) or name.startswith("~"):
        raise InputError(
            f"--remote-dir {asked!r} cannot be used",
            why="it is a folder of its own, absolute or in the home folder",
            mend="pass for instance --remote-dir edgeq or /tmp/edgeq",
        )
    return posixpath.normpath(name)


def _require_own_folder(board: Board, place: str) -> None:
    """Raise InputError if `place` is the home folder of the board or one that this lies in."""
    home = board.files.normalize(".")
    try:
        there = board.files.normalize(place)
    except FileNotFoundError:
        return
    if posixpath.commonpath([home, there]) == there:
        raise InputError(
            f"--remote-dir {place!r} cannot be used: it is {there}, and the home folder is {home}",
            why="the bundle's files would lie among others there, and --clean would remove such as README.txt",
            mend="pass for instance --remote-dir edgeq or /tmp/edgeq",
        )


def _check(board: Board, place: str, out: Path, *, is_again: bool, say: Say) -> None:
    """Let TensorRT on the board answer the questions of the bundle, unless it has done so; write what it said to `out`.

    Raises:
        EdgeqError: if the board lacks something, or a question ends TensorRT.
    """
    if not is_again:
        known = _parse(_read(board, posixpath.join(place, CHECKED)))
        if known is not None and not {"error", "running"} & set(known):
            return
    content, code = _run(board, place, [f"./{CHECK}"], CHECKED, say)
    if content is not None:
        write_bytes(out, content)
    found = _parse(content) or {}
    if "error" in found:
        raise _fault_of(found["error"], out)
    if code:
        asked = f" at the question '{found['running']}'" if "running" in found else ""
        raise _by_code(
            *(code, f"{CHECK} ended with {code}{asked}"), more="; or pass --no-device-check"
        )


def _run(
    board: Board, place: str, words: Sequence[str], name: str, say: Say
) -> tuple[bytes | None, int]:
    """Run a program of the bundle; return its report, the file `name`, and its exit code."""
    report = posixpath.join(place, name)
    if size_of(board, report) is not None:  # of an earlier run: it must not pass for this one's
        board.files.remove(report)
    code = board.run(words, folder=place, say=say, is_terminal=True)
    return _read(board, report), code


def _read(board: Board, path: str) -> bytes | None:
    """Return the content of a file of the board; None if there is none, or a large one."""
    size = size_of(board, path)
    if size is None or size > _LARGEST_REPORT:
        return None
    with board.files.open(path, "rb") as file:
        return bytes(file.read())


def _parse(report: bytes | None) -> dict[str, Any] | None:
    """Return the JSON object that a report is; None if it is none."""
    try:
        found = json.loads(report or b"")
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _judge(report: bytes | None, code: int, out: Path) -> dict[str, Any]:
    """Return the report; raise the fault that it tells of."""
    found = _parse(report)
    if found is None or not {"passed", "verdict"} <= set(found):
        lacks = "report" if found is None else "verdict"
        raise _by_code(code, f"build.sh ended with {code} and left no {lacks}")
    if isinstance(found.get("error"), dict):
        raise _fault_of(found["error"], out)
    return found


def _fault_of(told: Any, out: Path) -> EdgeqError:
    """Return the fault that a report, which lies at `out`, tells of."""
    fault = told if isinstance(told, dict) else {"what": told}
    kind = getattr(errors, str(fault.get("kind")), BuildError)
    if not (isinstance(kind, type) and issubclass(kind, EdgeqError)):
        kind = BuildError
    why = str(fault.get("why", "the lines above are what the board said"))
    return kind(
        f"on the board: {fault.get('what')}", why=why, mend=str(fault.get("mend")), path=out
    )


def _by_code(code: int, what: str, *, more: str = "") -> EdgeqError:
    kinds = {3: InputError, 4: errors.TargetError, 5: errors.MissingDependencyError}
    return kinds.get(code, BuildError)(
        what,
        why="the lines above are what the board said",
        mend=f"mend what they tell, then run the same command again{more}",
    )


@contextmanager
def _faults_told(board: Board, place: str) -> Iterator[None]:
    """Raise what paramiko raises in the block as a fault of the board."""
    try:
        yield
    except faults() as error:
        raise _lost(board, place, error) from error


def _lost(board: Board, place: str, error: Exception) -> DeviceError:
    if not isinstance(error, OSError) or not str(error) or "closed" in str(error).lower():
        return lost_connection(board.address)
    return DeviceError(
        f"{place} on {board.address} cannot be used: {error}",
        why="the bundle is copied there and run there",
        mend="free some space there, wait for another `edgeq deploy` into that folder, or pass another --remote-dir",
    )
