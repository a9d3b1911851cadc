"""What is committed fits every machine: no path and no package host of one of them, and no large file."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MACHINE_PATH = re.compile(r"(?<![\w.~/-])/(?:work|root|home|Users)/\w")
PACKAGE_HOST = re.compile(
    r"pypi[.](?:org|ngc)|pythonhosted[.]|download[.]pytorch[.]|(?:index|extra-index)[-]url|find[-]links"
)
LARGEST_BYTES = 500_000


def tracked_files() -> list[Path]:
    """Return every committed file that is there."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("no git clone: which files are committed cannot be told")
    done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True)
    paths = [ROOT / name for name in done.stdout.decode().split("\0") if name]
    return [path for path in paths if path.is_file()]


def lines_with(pattern: re.Pattern[str]) -> list[str]:
    """Return place and text of every line that holds `pattern`, in text and binary files alike."""
    return [
        f"{path.relative_to(ROOT)}:{number}: {line[:120]}"
        for path in tracked_files()
        for number, line in enumerate(path.read_text("latin-1").splitlines(), 1)
        if pattern.search(line)
    ]


def test_no_committed_file_names_a_folder_of_a_machine() -> None:
    assert lines_with(MACHINE_PATH) == []


def test_no_committed_file_names_a_package_host() -> None:
    assert lines_with(PACKAGE_HOST) == []


def test_no_committed_file_is_large() -> None:
    large = [path for path in tracked_files() if path.stat().st_size > LARGEST_BYTES]
    assert large == []


@pytest.mark.parametrize("folder", ["work", "root", "home", "Users"])
def test_a_machine_path_is_recognised(folder: str) -> None:
    assert MACHINE_PATH.search(f"see {'/'}{folder}{'/'}someone/model.onnx")


def test_a_package_host_is_recognised() -> None:
    assert PACKAGE_HOST.search("https://" + "pypi" + ".org/simple")
