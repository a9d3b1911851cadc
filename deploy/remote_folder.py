"""The folder of a bundle on a board: held, filled, emptied.

Main entries: `hold`, `upload`, `clean`. A file that is right on the board (by its SHA-256, asked of the board) is not
sent again, a half-sent one is continued under its temporary name.
"""

from __future__ import annotations

import logging
import posixpath
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from deploy.sealed import RESULTS
from deploy.ssh import Board, faults
from edgeq.core.errors import DeviceError
from edgeq.core.progress import Progress

_TEMPORARY = re.compile(r"\..+\.part")  # of this module, and of core.files in a run that was killed
_log = logging.getLogger(__name__)
_CHUNK = 1 << 18
# Prints a line and lives until its input ends: with the connection, however that ends.
_HOLD = "echo held; exec cat"


@contextmanager
def hold(board: Board, place: str) -> Iterator[None]:
    """Make the folder `place` and hold the board's lock on it for the block.

    The lock is the system's, of a command that lives as long as the connection: nothing is left behind by a cut.

    Raises:
        DeviceError: if another `edgeq deploy` holds it.
    """
    make_folders(board, place)
    with board.attached(["flock", "-n", ".", "sh", "-c", _HOLD], folder=place) as answer:
        if answer == 1:
            raise DeviceError(
                f"another `edgeq deploy` is at work in {place} on {board.address}",
                why="two would overwrite each other's files and time each other's engine",
                mend="wait until it has ended, or pass another --remote-dir",
            )
        if answer != "held":
            _log.warning(
                "%s has no flock (%s): two `edgeq deploy` into %s at once would disturb each other",
                *(board.address, answer, place),
            )
        yield


def upload(
    board: Board, bundle: Path, place: str, sums: dict[str, str], progress: Progress
) -> list[str]:
    """Send every file that is not on the board yet, the seal last; return their names."""
    for name in ("", *sums):
        make_folders(board, posixpath.dirname(posixpath.join(place, name)))
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
    done = size_of(board, part)
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


def clean(board: Board, place: str, sums: dict[str, str]) -> list[str]:
    """Remove the files of the bundle and of its runs, and folders that are empty then; return what is left.

    A fault here is a warning: it must not hide how the run ended.
    """
    try:
        entries = board.files.listdir(place)
        for name in (*sums, *RESULTS, *filter(_TEMPORARY.fullmatch, entries)):
            if size_of(board, posixpath.join(place, name)) is not None:
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


def make_folders(board: Board, folder: str) -> None:
    """Make a folder of the board and those that it lies in, where they are not there."""
    if not folder or _is_folder(board, folder):
        return
    make_folders(board, posixpath.dirname(folder))
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


def size_of(board: Board, path: str) -> int | None:
    """Return the size of a file of the board in bytes; None if there is none."""
    try:
        size: int | None = board.files.lstat(path).st_size
        return size
    except FileNotFoundError:
        return None
