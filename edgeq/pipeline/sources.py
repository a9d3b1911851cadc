"""Which code runs: a digest of the sources, so that a stage which other code finished is run again.

The version alone does not tell it: while edgeq is worked on, many states of the code have one version.
"""

from __future__ import annotations

import functools
import hashlib
from importlib.util import find_spec
from pathlib import Path

_PACKAGES = ("edgeq", "calib", "deploy")
# Of code and of the report's page. Recipes and target cards are data, and a part of the build's identity themselves.
_SUFFIXES = {".py", ".j2", ".js", ".css"}


@functools.cache
def digest_sources() -> str:
    """Return 16 hex digits of the SHA-256 of all sources, wherever they are installed; takes about 6 ms."""
    return digest_folders([_folder(name) for name in _PACKAGES])


def digest_folders(folders: list[Path]) -> str:
    """Return the digest of what lies in `folders`: names relative to each one's parent, and contents."""
    digest = hashlib.sha256()
    for folder in folders:
        for path in sorted(folder.rglob("*")):
            if path.suffix in _SUFFIXES:
                content = path.read_bytes()
                digest.update(f"{path.relative_to(folder.parent)} {len(content)}\n".encode())
                digest.update(content)
    return digest.hexdigest()[:16]


def _folder(package: str) -> Path:
    found = find_spec(package)
    assert found is not None
    assert found.origin is not None
    return Path(found.origin).parent
