from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import pytest
import zstandard

from deploy.archive import pack_bundle, unpack_bundle
from deploy.sealed import verify_bundle
from edgeq.core.errors import InputError
from edgeq.core.files import digest_file


def seal(folder: Path) -> None:
    names = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    lines = [f"{digest_file(folder / name)}  {name}\n" for name in sorted(names)]
    (folder / "SHA256SUMS").write_text("".join(lines))


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    folder = tmp_path / "bundle"
    (folder / "deploy").mkdir(parents=True)
    (folder / "build.sh").write_text("#!/bin/sh\n")
    (folder / "build.sh").chmod(0o755)
    (folder / "deploy" / "x.py").write_text("x = 1\n")
    seal(folder)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def test_what_is_packed_comes_out(bundle, tmp_path):
    pack_bundle(bundle, tmp_path / "b.tar.zst")
    unpack_bundle(tmp_path / "b.tar.zst", tmp_path / "again")
    assert contents(tmp_path / "again") == contents(bundle)
    assert os.access(tmp_path / "again/build.sh", os.X_OK)
    assert not os.access(tmp_path / "again/deploy/x.py", os.X_OK)


def test_the_same_bundle_gives_the_same_bytes(bundle, tmp_path):
    pack_bundle(bundle, tmp_path / "a.tar.zst")
    os.utime(bundle / "build.sh", (1, 1))
    pack_bundle(bundle, tmp_path / "b.tar.zst")
    assert (tmp_path / "a.tar.zst").read_bytes() == (tmp_path / "b.tar.zst").read_bytes()


def test_what_a_run_left_in_the_folder_is_not_packed(bundle, tmp_path):
    (bundle / "model.plan").write_text("engine")
    pack_bundle(bundle, tmp_path / "a.tar.zst")
    unpack_bundle(tmp_path / "a.tar.zst", tmp_path / "again")
    assert not (tmp_path / "again/model.plan").exists()


def make_archive(path: Path, *entries: tuple[tarfile.TarInfo, bytes]) -> Path:
    raw = io.BytesIO()
    with tarfile.open(mode="w", fileobj=raw) as tar:
        for entry, data in entries:
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    path.write_bytes(zstandard.compress(raw.getvalue()))
    return path


def entry(name: str, kind: bytes = tarfile.REGTYPE, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


@pytest.mark.parametrize(
    "bad",
    [
        pytest.param(entry("bundle/../../evil"), id="parent"),
        pytest.param(entry("/etc/evil"), id="absolute"),
        pytest.param(entry("bundle//etc/evil"), id="empty-part"),
        pytest.param(entry("evil"), id="outside-bundle"),
        pytest.param(entry("bundle/a", tarfile.SYMTYPE, "/etc/passwd"), id="symbolic-link"),
        pytest.param(entry("bundle/a", tarfile.LNKTYPE, "/etc/passwd"), id="hard-link"),
        pytest.param(entry("bundle/a", tarfile.CHRTYPE), id="device"),
        pytest.param(entry("bundle/a", tarfile.FIFOTYPE), id="pipe"),
        pytest.param(entry("bundle/-rf"), id="option"),
        pytest.param(entry("bundle/a b"), id="space"),
        pytest.param(entry("bundle/a\nb"), id="newline"),
        pytest.param(entry("bundle/.ssh/authorized_keys"), id="hidden"),
    ],
)
def test_what_no_bundle_holds_is_refused_and_nothing_is_left(tmp_path, bad):
    path = make_archive(tmp_path / "a.tar.zst", (bad, b""))
    with pytest.raises(InputError):
        unpack_bundle(path, tmp_path / "out")
    assert [item.name for item in tmp_path.iterdir()] == ["a.tar.zst"]


def test_a_file_that_comes_twice_is_refused(tmp_path):
    path = make_archive(
        tmp_path / "a.tar.zst", (entry("bundle/a"), b"1"), (entry("bundle/a"), b"2")
    )
    with pytest.raises(InputError, match="cannot be unpacked"):
        unpack_bundle(path, tmp_path / "out")


@pytest.mark.parametrize("data", [b"", b"no archive at all", zstandard.compress(b"no tar" * 200)])
def test_a_file_that_is_no_archive_is_refused(tmp_path, data):
    (tmp_path / "a.tar.zst").write_bytes(data)
    with pytest.raises(InputError):
        unpack_bundle(tmp_path / "a.tar.zst", tmp_path / "out")


def test_an_archive_that_was_cut_off_is_refused(bundle, tmp_path):
    pack_bundle(bundle, tmp_path / "a.tar.zst")
    data = (tmp_path / "a.tar.zst").read_bytes()
    (tmp_path / "a.tar.zst").write_bytes(data[: len(data) // 2])
    with pytest.raises(InputError):
        unpack_bundle(tmp_path / "a.tar.zst", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_changed_file_is_found(bundle):
    (bundle / "deploy/x.py").write_text("x = 2\n")
    with pytest.raises(InputError, match=r"deploy/x\.py was changed"):
        verify_bundle(bundle)


def test_a_missing_file_is_found(bundle):
    (bundle / "deploy/x.py").unlink()
    with pytest.raises(InputError, match=r"deploy/x\.py is missing"):
        verify_bundle(bundle)


def test_a_link_to_the_right_bytes_is_found(bundle, tmp_path):
    (bundle / "deploy/x.py").rename(tmp_path / "x.py")
    (bundle / "deploy/x.py").symlink_to(tmp_path / "x.py")
    with pytest.raises(InputError, match=r"deploy/x\.py is a link"):
        verify_bundle(bundle)


@pytest.mark.parametrize("name", ["../evil", "/evil", "a/../../b", "-rf", "a;b", ".ssh/x"])
def test_a_name_in_the_seal_that_leaves_the_folder_is_refused(bundle, name):
    (bundle / "SHA256SUMS").write_text(f"{'0' * 64}  {name}\n")
    with pytest.raises(InputError, match="cannot hold"):
        verify_bundle(bundle)


def test_a_folder_without_a_seal_is_no_bundle(tmp_path):
    with pytest.raises(InputError, match="is no bundle"):
        verify_bundle(tmp_path)
