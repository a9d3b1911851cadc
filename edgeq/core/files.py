"""Files that appear whole or not at all, JSON beside them, and digests of both. Runs on the board, too."""

import contextlib
import errno
import hashlib
import json
import os
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Callable, Iterator, Union

from edgeq.core.errors import InputError

# What the functions of `import edgeq` take for a path.
FilePath = Union[str, Path]

# Errors of a file system or a quota that is full.
NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@contextmanager
def atomic_write(path: Path) -> Iterator[BinaryIO]:
    """Yield a binary file that takes the name `path` only when the block ends without an error.

    Raises:
        InputError: if the disk is full or the folder cannot be written; nothing is left behind.
    """
    handle = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(
            dir=path.parent, prefix=f".{path.name}.", suffix=".part"
        )
        handle = Path(name)
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        handle.chmod(0o644)
        handle.replace(path)
    except OSError as error:
        raise _cannot_write(path, error) from error
    finally:
        if handle is not None and handle.exists():
            handle.unlink()


def require_writable(path: Path) -> None:
    """Check that a file can be written to `path`, before the work that it is to hold; makes its folder.

    Raises:
        InputError: if it cannot.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            path.lstat()  # raises of a name that is too long
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        tempfile.TemporaryFile(dir=str(path.parent)).close()
    except OSError as error:
        raise _cannot_write(path, error) from error


def _cannot_write(path: Path, error: OSError) -> InputError:
    # numpy tells of a write that came out short without an errno.
    if error.errno is None or error.errno in NO_ROOM:
        return InputError(
            f"no room to write {path.name or path}",
            why=f"the file system or the quota is full ({error.strerror or error}); finished stages are kept",
            mend="free some space and run the same command again, or choose another folder with --out",
            path=path,
        )
    return InputError(
        f"cannot write {path.name or path}: {error.strerror}",
        why="results go to a folder that can be written",
        mend="mend the permissions, or choose another folder with --out",
        path=path,
    )


def write_bytes(path: Path, data: bytes) -> None:
    """Write `data` to `path` atomically."""
    with atomic_write(path) as file:
        file.write(data)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON with sorted keys, atomically."""
    write_bytes(
        path, (json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n").encode()
    )


def read_json(path: Path) -> Any:
    """Return the JSON value in `path`.

    Raises:
        InputError: if the file is missing, is no JSON, or nests too deep.
    """
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(
            f"cannot read {path.name or path}: {error}",
            why="a JSON file was expected there",
            mend="check the path, or make the file anew",
            path=path,
        ) from error


def write_with(path: Path, writer: Callable[[BinaryIO], Any]) -> None:
    """Write `path` atomically by calling `writer(file)`."""
    with atomic_write(path) as file:
        writer(file)


def digest_file(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, 64 hex digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for chunk in iter(lambda: file.read(1 << 20), b""):
            digest.update(chunk)
    return digest.hexdigest()
