"""Copies a bundle to a board, runs it there, brings the report back. Main entry: `deploy_bundle`.

A cut does no harm: a file that is right on the board (by its SHA-256, asked of the board) is not sent again, a
half-sent one is continued under its temporary name, and build.sh uses an engine that is whole.
"""

from __future__ import annotations

import json
import logging
import posixpath
import re
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploy.board.run import REPORT
from deploy.sealed import RESULTS, SUMS, verify_bundle
from deploy.ssh import Access, Board, connect, faults, lost_connection
from edgeq.core import errors
from edgeq.core.errors import BuildError, DeviceError, EdgeqError, GateFailed, InputError
from edgeq.core.files import digest_file, write_bytes
from edgeq.core.progress import NoProgress, Progress
from edgeq.core.serial import Spec

_TEMPORARY = re.compile(r"\..+\.part")  # of this module, and of core.files in a run that was killed
_log = logging.getLogger(__name__)
_CHUNK = 1 << 18
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
        say: takes each line that the board prints, as it comes.
        progress: who hears of the upload.

    Raises:
        InputError: if the bundle was changed.
        DeviceError: if the board cannot be reached or used, or the connection is lost.
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
    with connect(access) as board:
        try:
            sent = _upload(board, bundle, place, sums, progress or NoProgress())
            report, code = _run(board, place, words, say)
        except faults() as error:
            raise _lost(board, place, error) from error
        finally:
            kept = _clean(board, place, sums) if is_clean else ()
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
    return name


def _upload(
    board: Board, bundle: Path, place: str, sums: dict[str, str], progress: Progress
) -> list[str]:
    """Send every file that is not on the board yet, the seal last; return their names."""
    for name in ("", *sums):
        _make_folders(board, posixpath.dirname(posixpath.join(place, name)))
    there = _sums_on_board(board, place, sums)
    missing = [name for name in sums if there.get(name) != sums[name]]
    progress.start("upload", sum((bundle / name).stat().st_size for name in missing), "bytes")
    for name in missing:
        _send(board, bundle / name, posixpath.join(place, name), sums[name], place, progress)
    there = _sums_on_board(board, place, sums)
    wrong = [name for name in sums if there.get(name) != sums[name]]
    for name in wrong:
        board.files.remove(posixpath.join(place, name))
    if wrong:
        raise DeviceError(
            f"{', '.join(wrong)} did not arrive as sent",
            why="their checksums on the board differ",
            mend="run the same command again; look at the board's storage if it happens again",
        )
    progress.finish(f"{len(missing)} files sent, {len(sums) - len(missing)} were there already")
    return missing


def _send(
    board: Board, source: Path, target: str, digest: str, place: str, progress: Progress
) -> None:
    """Send one file under a temporary name, from where an earlier run was cut off, then rename it."""
    part = posixpath.join(place, f".{digest[:16]}.part")
    size = source.stat().st_size
    done = _size_of(board, part)
    if done is None or done > size:
        done = 0
    progress.advance(done)
    with source.open("rb") as content, board.files.open(part, "ab" if done else "wb") as file:
        file.set_pipelined(True)
        content.seek(done)
        while chunk := content.read(_CHUNK):
            file.write(chunk)
            progress.advance(len(chunk))
    if target.endswith(".sh"):
        board.files.chmod(part, 0o755)
    board.files.posix_rename(part, target)


def _sums_on_board(board: Board, place: str, names: dict[str, str]) -> dict[str, str]:
    """Return the SHA-256 of every file that is there."""
    lines: list[str] = []
    code = board.run(["sha256sum", "--", *names], folder=place, say=lines.append)
    if code not in (0, 1):  # 1: some are missing
        raise DeviceError(
            f"the board has no sha256sum (exit code {code})",
            why="checksums tell which files are there already, and that all arrived",
            mend="install coreutils on the board",
        )
    pairs = (line.partition("  ") for line in lines)
    return {name: digest for digest, _, name in pairs if name in names}


def _run(board: Board, place: str, words: Sequence[str], say: Say) -> tuple[bytes | None, int]:
    """Return the report and the exit code of build.sh."""
    report = posixpath.join(place, REPORT)
    if _size_of(board, report) is not None:  # of an earlier run: it must not pass for this one's
        board.files.remove(report)
    code = board.run(["./build.sh", *words], folder=place, say=say, is_terminal=True)
    size = _size_of(board, report)
    if size is None or size > _LARGEST_REPORT:
        return None, code
    with board.files.open(report, "rb") as file:
        return bytes(file.read()), code


def _judge(report: bytes | None, code: int, out: Path) -> dict[str, Any]:
    """Return the report; raise the fault that it tells of."""
    found = None
    if report is not None:
        try:
            found = json.loads(report)
        except (ValueError, RecursionError):  # told below
            found = None
    if not isinstance(found, dict) or not {"passed", "verdict"} <= set(found):
        raise _by_code(code, f"build.sh ended with {code} and left no report")
    fault = found.get("error")
    if isinstance(fault, dict):
        kind = getattr(errors, str(fault.get("kind")), BuildError)
        if not (isinstance(kind, type) and issubclass(kind, EdgeqError)):
            kind = BuildError
        what, why, mend = (str(fault.get(key)) for key in ("what", "why", "mend"))
        raise kind(f"on the board: {what}", why=why, mend=mend, path=out)
    return found


def _by_code(code: int, what: str) -> EdgeqError:
    kinds = {3: InputError, 4: errors.TargetError, 5: errors.MissingDependencyError}
    return kinds.get(code, BuildError)(
        what,
        why="the lines above are what the board said",
        mend="mend what they tell, then run the same command again",
    )


def _clean(board: Board, place: str, sums: dict[str, str]) -> list[str]:
    """Remove the files of the bundle and of its runs, and folders that are empty then; return what is left.

    A fault here is a warning: it must not hide how the run ended.
    """
    try:
        entries = board.files.listdir(place)
        for name in (*sums, *RESULTS, *filter(_TEMPORARY.fullmatch, entries)):
            if _size_of(board, posixpath.join(place, name)) is not None:
                board.files.remove(posixpath.join(place, name))
        folders = {posixpath.dirname(name) for name in sums} - {""}
        folders |= {posixpath.dirname(name) for name in folders} - {""}
        for name in sorted(folders, key=len, reverse=True):
            if not board.files.listdir(posixpath.join(place, name)):
                board.files.rmdir(posixpath.join(place, name))
        left = board.files.listdir(place)
        if not left:
            board.files.rmdir(place)
        return sorted(left)
    except FileNotFoundError:  # nothing was copied
        return []
    except faults() as error:
        _log.warning("%s on %s could not be removed: %s", place, board.address, error)
        return []


def _make_folders(board: Board, folder: str) -> None:
    if not folder or _is_folder(board, folder):
        return
    _make_folders(board, posixpath.dirname(folder))
    try:
        board.files.mkdir(folder)
    except OSError:  # another `edgeq deploy` made it just now
        if not _is_folder(board, folder):
            raise


def _is_folder(board: Board, path: str) -> bool:
    try:
        return stat.S_ISDIR(board.files.stat(path).st_mode or 0)
    except FileNotFoundError:
        return False


def _size_of(board: Board, path: str) -> int | None:
    try:
        size: int | None = board.files.lstat(path).st_size
        return size
    except FileNotFoundError:
        return None


def _lost(board: Board, place: str, error: Exception) -> DeviceError:
    if not isinstance(error, OSError) or not str(error) or "closed" in str(error).lower():
        return lost_connection(board.address)
    return DeviceError(
        f"{place} on {board.address} cannot be used: {error}",
        why="the bundle is copied there and run there",
        mend="free some space there, wait for another `edgeq deploy` into that folder, or pass another --remote-dir",
    )
