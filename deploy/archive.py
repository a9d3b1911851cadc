"""A bundle as one file, bundle.tar.zst, and back. The same bundle gives the same bytes.

Unpacking trusts nothing: only regular files with plain relative names come out, never a link, a device or a path that
leaves the folder, and the seal is verified before the folder takes its name. `zstandard` is used because Python's own
module came with 3.14; it is a binding of the reference library.
"""

from __future__ import annotations

import shutil
import tarfile
from pathlib import Path
from typing import Any

from deploy.sealed import SUMS, require_name, verify_bundle
from edgeq.core.errors import InputError
from edgeq.core.files import atomic_write

_LEVEL = 10


def pack_bundle(folder: Path, archive: Path) -> None:
    """Write the sealed files of the bundle in `folder` to `archive`, with neither times nor owners.

    Raises:
        InputError: if the bundle is damaged, or `archive` cannot be written.
    """
    import zstandard

    names = sorted([*verify_bundle(folder), SUMS])
    compressor = zstandard.ZstdCompressor(level=_LEVEL, write_checksum=True)
    with (
        atomic_write(archive) as file,
        compressor.stream_writer(file, closefd=False) as packed,
        tarfile.open(mode="w|", fileobj=packed, format=tarfile.USTAR_FORMAT) as tar,
    ):
        for name in names:
            entry = tarfile.TarInfo(f"bundle/{name}")
            entry.size = (folder / name).stat().st_size
            entry.mode = 0o755 if name.endswith(".sh") else 0o644
            with (folder / name).open("rb") as content:
                tar.addfile(entry, content)


def unpack_bundle(archive: Path, folder: Path) -> None:
    """Write the bundle in `archive` to `folder`, which must not be there yet; verified, whole or not at all.

    Raises:
        InputError: if `archive` is none, holds what no bundle holds, or is damaged.
    """
    import zstandard

    part = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        with (
            archive.open("rb") as file,
            zstandard.ZstdDecompressor().stream_reader(file) as packed,
            tarfile.open(mode="r|", fileobj=packed) as tar,
        ):
            for entry in tar:
                _unpack(tar, entry, part)
        verify_bundle(part)
        part.rename(folder)
    except (OSError, tarfile.TarError, zstandard.ZstdError) as error:
        raise InputError(
            f"{archive.name} cannot be unpacked: {error}",
            why="it is no bundle.tar.zst, or was cut off",
            mend="copy it again, or pass the folder",
            path=archive,
        ) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _unpack(tar: tarfile.TarFile, entry: tarfile.TarInfo, folder: Path) -> None:
    top, _, name = entry.name.partition("/")
    if not entry.isreg() or top != "bundle":
        raise InputError(
            f"the archive holds {entry.name!r}, which is no file of a bundle",
            why="a bundle has regular files under bundle/ alone: no links, devices, folders or paths that leave it",
            mend="use an archive that `edgeq build` wrote",
        )
    require_name(name)
    target = folder / name
    target.parent.mkdir(parents=True, exist_ok=True)
    content: Any = tar.extractfile(entry)
    with target.open("xb") as file:
        shutil.copyfileobj(content, file)
    if entry.mode & 0o100:
        target.chmod(0o755)
