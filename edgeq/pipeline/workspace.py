"""The output folder of a build: which stages are finished, so that a killed run goes on where it stopped.

`manifest.json` names the build (model, target, figures, versions) and, for each finished stage, the digest of what
went in (the code among it) and of every file that came out. A stage whose digest and files are all there is not run
again. The manifest is written first without stages, which marks the folder as the build's, and again after the files
of each stage, so it never claims what is not on disk.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeGuard

from edgeq.core.checkpoints import FOLDER as CHECKPOINTS
from edgeq.core.errors import InputError
from edgeq.core.files import digest_file, read_json, write_json
from edgeq.core.progress import Progress
from edgeq.core.serial import digest_of
from edgeq.pipeline.sources import digest_sources

MANIFEST = "manifest.json"
SCHEMA = 1

# What a killed run leaves of a file (`core.files`) or a folder (`deploy.bundle`) that it was writing or replacing.
LEFTOVERS = (".*.part", ".bundle.old")

# How a file system says that it cannot lock a folder.
_NO_LOCKS = {errno.EBADF, errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One step of a build.

    Attributes:
        name: what the manifest and the user call it.
        produce: makes the stage's files in the folder and returns their names relative to it.
        after: the stages whose files it reads; if one of those changes, this one runs again.
        inputs: what else its result depends on, besides the build's identity; plain JSON values.
    """

    name: str
    produce: Callable[[], Sequence[str]]
    after: tuple[str, ...] = ()
    inputs: dict[str, Any] = field(default_factory=dict)


class Workspace:
    """An output folder that belongs to one build.

    Attributes:
        folder: where everything goes.
    """

    def __init__(self, folder: Path, identity: dict[str, Any], *, overwrite: bool) -> None:
        """Check that `folder` may hold the build that `identity` describes; nothing is changed yet.

        Raises:
            InputError: if it holds another build and `overwrite` is false, or files that are not of a build.
        """
        self.folder = folder
        self._identity = identity
        self._stages: dict[str, Any] = {}
        self._overwrite = overwrite
        self._replaces = False
        self._inspect()

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """Make the folder this build's for the block; nothing is left where not even part of a stage was finished.

        Another build is deleted (`overwrite` allowed it), and so is what a killed run was writing.

        Raises:
            InputError: if the folder cannot be written, or another run is at work in it.
        """
        made = [path for path in (self.folder, *self.folder.parents) if not path.exists()]
        with _locked(self.folder):
            self._inspect()  # another run may have ended since the first look
            try:
                self._clear()
                if not (self.folder / MANIFEST).is_file():
                    self._write_manifest()
                yield
            finally:
                if not self._stages and not any((self.folder / CHECKPOINTS).glob("*")):
                    with suppress(
                        OSError
                    ):  # what cannot be removed must not hide why the run ended
                        _empty(self.folder)
                        for path in made:
                            path.rmdir()

    def run(self, stage: Stage, progress: Progress) -> None:
        """Run `stage`, or keep its files if it is finished for the same inputs; `progress` is told of the latter."""
        upstream = {name: self._stages[name]["files"] for name in stage.after}
        digest = digest_of(
            {
                "stage": stage.name,
                "build": self._identity,
                "code": digest_sources(),
                "inputs": stage.inputs,
                "upstream": upstream,
            }
        )
        record = self._stages.get(stage.name)
        if record is not None and record["digest"] == digest and self._has(record["files"]):
            progress.start(stage.name, 1, "stage")
            progress.advance()
            progress.finish("finished in an earlier run; kept")
            return
        started = time.monotonic()
        files = stage.produce()
        self._stages[stage.name] = {
            "digest": digest,
            "files": {name: digest_file(self.folder / name) for name in files},
            "seconds": round(time.monotonic() - started, 2),
        }
        self._write_manifest()

    def seconds(self) -> dict[str, float]:
        """Return how long each stage took when it ran."""
        return {stage: record["seconds"] for stage, record in self._stages.items()}

    def _inspect(self) -> None:
        """Read what the folder holds, or raise."""
        try:
            self._read_folder()
        except OSError as error:
            raise _unusable(self.folder, error) from error

    def _read_folder(self) -> None:
        if not self.folder.exists():
            place = next(path for path in self.folder.parents if path.exists())
            tempfile.TemporaryFile(dir=place).close()  # raises where nothing can be made
            return
        if not self.folder.is_dir():
            raise InputError(
                "the output folder is a file",
                why="results go to a folder",
                mend="choose another --out",
                path=self.folder,
            )
        manifest = self.folder / MANIFEST
        data = read_json(manifest) if manifest.is_file() else None
        if not _is_manifest(data):
            if all(item.match(f".{MANIFEST}.*.part") for item in self.folder.iterdir()):
                return
            raise InputError(
                "the output folder holds files that are not of an edgeq build, or its manifest.json is damaged",
                why="edgeq never mixes its results with other files, nor deletes them",
                mend="choose another --out, or empty the folder",
                path=self.folder,
            )
        if data["schema"] == SCHEMA and data["build"] == self._identity:
            self._stages = data["stages"]
        elif self._overwrite:
            self._replaces = True
        else:
            raise InputError(
                "the output folder holds another build",
                why=f"it was made from {_difference(data, self._identity)}; going on would mix the two",
                mend="choose another --out, or pass --overwrite to delete the old build",
                path=self.folder,
            )

    def _clear(self) -> None:
        """Remove what must not be there when the build begins."""
        try:
            if self._replaces:
                _empty(self.folder)
            for pattern in LEFTOVERS:
                for item in list(self.folder.rglob(pattern)):
                    _remove(item)
        except OSError as error:
            raise _unusable(self.folder, error) from error

    def _write_manifest(self) -> None:
        manifest = {"schema": SCHEMA, "build": self._identity, "stages": self._stages}
        write_json(self.folder / MANIFEST, manifest)

    def _has(self, files: dict[str, str]) -> bool:
        return all(
            (self.folder / name).is_file() and digest_file(self.folder / name) == digest
            for name, digest in files.items()
        )


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Make `folder` and hold its lock for the block; the system takes it back when a process ends, however that ends.

    Some file systems (NFS) have no lock on a folder: there, runs are the user's to keep apart.

    Raises:
        InputError: if the folder cannot be made, or another run holds the lock.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise _unusable(folder, error) from error
    try:
        _lock(handle, folder)
        yield
    finally:
        os.close(handle)


def _lock(handle: int, folder: Path) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise InputError(
            "another run of edgeq is at work in the output folder",
            why="two would overwrite each other's files",
            mend="wait until it has ended, or choose another --out",
            path=folder,
        ) from error
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise _unusable(folder, error) from error


def _is_manifest(data: Any) -> TypeGuard[dict[str, Any]]:
    """Return true for a whole manifest of any version of edgeq; other programs have files of that name, too."""
    return (
        isinstance(data, dict)
        and {"schema", "build", "stages"} <= set(data)
        and isinstance(data["build"], dict)
        and "edgeq" in data["build"]
        and (data["schema"] != SCHEMA or _are_stages(data["stages"]))
    )


def _are_stages(data: Any) -> bool:
    """Return true for records of stages as `Workspace.run` makes them."""
    return isinstance(data, dict) and all(
        isinstance(record, dict)
        and isinstance(record.get("digest"), str)
        and isinstance(record.get("files"), dict)
        and isinstance(record.get("seconds"), float | int)
        for record in data.values()
    )


def _unusable(folder: Path, error: OSError) -> InputError:
    return InputError(
        f"the output folder cannot be used: {error.strerror}",
        why="results go to a folder that can be made, read and written",
        mend="choose another --out, or mend its permissions",
        path=folder,
    )


def _empty(folder: Path) -> None:
    """Remove what is in `folder`, and not the folder: it may be a link or a mounted disk."""
    for item in list(folder.iterdir()) if folder.is_dir() else []:
        _remove(item)


def _remove(item: Path) -> None:
    if item.is_dir() and not item.is_symlink():
        shutil.rmtree(item)
    else:
        item.unlink(missing_ok=True)


def _difference(manifest: dict[str, Any], identity: dict[str, Any]) -> str:
    """Return what differs between the old build and this one, in words."""
    if manifest["schema"] != SCHEMA:
        return "another version of edgeq"
    old = manifest["build"]
    differing = sorted(key for key in {*old, *identity} if old.get(key) != identity.get(key))
    return f"another {', '.join(differing)}"
