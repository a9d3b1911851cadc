"""The digest of the code changes with the code, and with nothing else."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from edgeq.pipeline.sources import digest_folders, digest_sources


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    inner = tmp_path / "one" / "package" / "inner"
    inner.mkdir(parents=True)
    (inner / "a.py").write_text("x = 1\n")
    (inner / "page.j2").write_text("text\n")
    return inner.parent


def test_another_place_and_compiled_files_change_nothing(folder: Path, tmp_path: Path) -> None:
    before = digest_folders([folder])
    copy = tmp_path / "two" / "package"
    shutil.copytree(folder, copy)
    (copy / "inner" / "__pycache__").mkdir()
    (copy / "inner" / "__pycache__" / "a.cpython-310.pyc").write_bytes(b"compiled")
    assert digest_folders([copy]) == before


@pytest.mark.parametrize("change", ["content", "name", "template", "new"])
def test_a_change_of_the_sources_is_seen(folder: Path, change: str) -> None:
    before = digest_folders([folder])
    source = folder / "inner" / "a.py"
    if change == "content":
        source.write_text("x = 2\n")
    elif change == "name":
        source.rename(source.with_name("b.py"))
    elif change == "template":
        (folder / "inner" / "page.j2").write_text("other\n")
    else:
        (folder / "new.py").write_text("")
    assert digest_folders([folder]) != before


def test_the_three_packages_are_found() -> None:
    assert len(digest_sources()) == 16
    assert digest_sources() == digest_sources()
