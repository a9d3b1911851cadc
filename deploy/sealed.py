"""The seal of a bundle: SHA256SUMS names every file, and no file may differ from it or leave the folder."""

from __future__ import annotations

import re
from pathlib import Path

from deploy.board.run import ENGINE, REPORT, TIMING_CACHE
from deploy.trtexec import LAYER_INFO, TIMES
from edgeq.core.errors import InputError
from edgeq.core.files import digest_file

SUMS = "SHA256SUMS"
DLA_ENGINE = "model.dla.plan"
# What the programs of a bundle, and the trtexec lines of its README, write beside its files.
RESULTS = (
    *(ENGINE, f"{ENGINE}.json", f"{ENGINE}.layers.json", TIMING_CACHE, REPORT),
    *("device_check.json", DLA_ENGINE, LAYER_INFO, TIMES),
)
_LINE = re.compile(r"([0-9a-f]{64})  (\S+)")
# No name begins with a dot or a dash, so none is a parent folder, hidden, or an option of a command.
_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


def require_name(name: str) -> None:
    """Check that `name` is the relative path of a file that a bundle may have.

    Raises:
        InputError: if it is not.
    """
    if not all(_PART.fullmatch(part) for part in name.split("/")):
        raise InputError(
            f"a bundle cannot hold {name!r}",
            why="its files have relative names of letters, digits, '_', '-' and '.', and stay inside the folder",
            mend="use a bundle that `edgeq build` wrote",
        )


def read_sums(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every file of the bundle in `folder`, by name.

    Raises:
        InputError: if there is no seal, or a line of it is none.
    """
    try:
        lines = (folder / SUMS).read_text("ascii").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"{folder.name} is no bundle: {SUMS} cannot be read",
            why="a bundle is a folder, or a .tar.zst of one, that `edgeq build` wrote",
            mend="pass the bundle/ in the folder of a build",
            path=folder,
        ) from error
    sums = {}
    for line in lines:
        match = _LINE.fullmatch(line)
        if match is None:
            raise InputError(
                f"{SUMS} has the line {line!r}",
                why="a line is a SHA-256, two spaces and a name",
                mend="use a bundle that `edgeq build` wrote",
                path=folder,
            )
        require_name(match[2])
        sums[match[2]] = match[1]
    return sums


def verify_bundle(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every file of the bundle in `folder`, each of which was compared.

    Files that are not in the seal (an engine, a report) are left out.

    Raises:
        InputError: if a file is missing or changed, or lies elsewhere by a link.
    """
    sums = read_sums(folder)
    faults = [fault for name, digest in sums.items() if (fault := _fault(folder, name, digest))]
    if faults:
        raise InputError(
            f"the bundle is damaged or was changed: {'; '.join(faults)}",
            why="what runs on a board must be what was built and checked",
            mend="make it again with `edgeq build`, or copy it again",
            path=folder,
        )
    return sums


def _fault(folder: Path, name: str, digest: str) -> str:
    path = folder / name
    if not path.is_file():
        return f"{name} is missing"
    if path.resolve() != folder.resolve() / name:
        return f"{name} is a link"
    return "" if digest_file(path) == digest else f"{name} was changed"
