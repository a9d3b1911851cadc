"""Files appear whole or not at all."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest

from edgeq.core.errors import InputError
from edgeq.core.files import (
    atomic_write,
    digest_file,
    read_json,
    require_writable,
    write_bytes,
    write_json,
    write_with,
)

FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from edgeq.core.errors import InputError
from edgeq.core.files import write_bytes

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    write_bytes(Path(sys.argv[1]), b"x" * 100_000)
except InputError as error:
    print(error)
"""


def test_a_file_gets_its_name_when_the_block_ends(tmp_path):
    path = tmp_path / "new" / "folder" / "file.bin"
    with atomic_write(path) as file:
        file.write(b"abc")
        assert not path.exists()
    assert path.read_bytes() == b"abc"
    assert [item.name for item in path.parent.iterdir()] == ["file.bin"]
    assert path.stat().st_mode & 0o777 == 0o644


def test_an_exception_in_the_block_leaves_nothing_behind(tmp_path):
    def fail() -> None:
        with atomic_write(tmp_path / "file.bin") as file:
            file.write(b"abc")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_an_interrupt_in_the_block_keeps_the_old_file(tmp_path):
    path = tmp_path / "file.bin"
    path.write_bytes(b"old")

    def interrupt() -> None:
        with atomic_write(path) as file:
            file.write(b"new")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupt()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_told_and_leaves_nothing_behind(tmp_path):
    path = tmp_path / "file.bin"
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, path], capture_output=True, text=True, check=True
    )
    assert "no room to write file.bin" in done.stdout
    assert f"in:   file '{path}'" in done.stdout
    assert "mend: free some space" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_a_short_write_which_numpy_reports_without_an_errno_is_a_full_disk(tmp_path):
    def write() -> None:
        with atomic_write(tmp_path / "file.npy"):
            raise OSError("16384 requested and 4096 written")

    with pytest.raises(InputError, match="no room to write") as caught:
        write()
    assert "16384 requested and 4096 written" in caught.value.why


def test_a_folder_that_is_a_file_is_told(tmp_path):
    (tmp_path / "taken").write_text("")
    with pytest.raises(InputError, match=r"cannot write file\.bin") as caught:
        write_bytes(tmp_path / "taken" / "file.bin", b"")
    assert "--out" in caught.value.mend


def test_a_name_that_a_folder_has_is_told_and_leaves_nothing_behind(tmp_path):
    (tmp_path / "taken").mkdir()
    with pytest.raises(InputError, match="cannot write taken"):
        write_bytes(tmp_path / "taken", b"abc")
    assert [item.name for item in tmp_path.iterdir()] == ["taken"]


def test_a_place_is_tried_before_there_is_anything_to_write(tmp_path):
    (tmp_path / "file").write_text("x")
    require_writable(tmp_path / "new" / "r.json")
    require_writable(tmp_path / "file")
    assert list((tmp_path / "new").iterdir()) == []
    assert (tmp_path / "file").read_text() == "x"
    for path in (tmp_path, tmp_path / "file" / "r.json", tmp_path / ("x" * 300)):
        with pytest.raises(InputError, match="cannot write"):
            require_writable(path)


def test_json_has_sorted_keys_and_the_same_bytes_each_time(tmp_path):
    first, second = tmp_path / "a.json", tmp_path / "b.json"
    write_json(first, {"b": [1, 2.5, None], "a": "ä"})
    write_json(second, {"a": "ä", "b": [1, 2.5, None]})
    assert first.read_bytes() == second.read_bytes()
    assert first.read_text("utf-8").endswith("}\n")
    assert read_json(first) == {"a": "ä", "b": [1, 2.5, None]}


def test_json_has_no_nan(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "a.json", {"loss": float("nan")})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "content", [None, b"{", b"\xff\xfe"], ids=["missing", "no_json", "no_text"]
)
def test_json_that_cannot_be_read_is_told_with_its_path(tmp_path, content):
    path = tmp_path / "a.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=r"cannot read a\.json") as caught:
        read_json(path)
    assert caught.value.path == str(path)


def test_the_folder_here_has_a_name_in_the_message() -> None:
    with pytest.raises(InputError, match=r"cannot read \.: "):
        read_json(Path())


def test_the_folder_here_has_a_name_in_the_message_on_what_is_written() -> None:
    with pytest.raises(InputError, match=r"cannot write \.: "):
        require_writable(Path())


def test_a_writer_is_given_the_file(tmp_path):
    write_with(tmp_path / "file.bin", lambda file: file.write(b"abc"))
    assert (tmp_path / "file.bin").read_bytes() == b"abc"


@pytest.mark.parametrize("size", [0, 5, (1 << 20) + 3])
def test_the_digest_is_the_sha256_of_the_bytes(tmp_path, size):
    path = Path(tmp_path / "file.bin")
    data = b"z" * size
    path.write_bytes(data)
    assert digest_file(path) == hashlib.sha256(data).hexdigest()
