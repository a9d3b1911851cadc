from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest

from edgeq.core.errors import EdgeqBug, MissingDependencyError
from edgeq.core.optional import is_within, require, version_numbers


def test_a_module_that_is_there_is_returned() -> None:
    assert require("json", why="to test", install="nothing") is sys.modules["json"]


def test_an_absent_module_is_missed_with_its_command() -> None:
    with pytest.raises(MissingDependencyError) as caught:
        require("no_such_thing", ">=1,<2", why="to test", install="pip install no-such-thing")
    assert caught.value.what == "no_such_thing is not installed"
    assert caught.value.why == "no_such_thing >=1,<2 is needed to test"
    assert caught.value.mend == "pip install no-such-thing"


def test_a_module_that_cannot_be_loaded_is_not_called_absent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_thing.py").write_text("raise ImportError('libnvinfer.so.10: cannot open')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(MissingDependencyError) as caught:
        require("broken_thing", why="to test", install="reinstall")
    assert "cannot be loaded: libnvinfer.so.10" in caught.value.what


@pytest.mark.parametrize(("version", "fits"), [("8.2.1", False), ("10.3.0", True), ("12.0", False)])
def test_another_version_is_named(
    monkeypatch: pytest.MonkeyPatch, version: str, fits: bool
) -> None:
    module = ModuleType("versioned_thing")
    module.__version__ = version  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "versioned_thing", module)
    if fits:
        assert require("versioned_thing", ">=8.5,<12", why="w", install="i") is module
        return
    with pytest.raises(MissingDependencyError, match=f"versioned_thing {version} was found"):
        require("versioned_thing", ">=8.5,<12", why="w", install="i")


@pytest.mark.parametrize(
    ("version", "numbers"), [("10.16.1.11", (10, 16, 1, 11)), ("8.6.1.post2", (8, 6, 1)), ("x", ())]
)
def test_a_version_is_its_leading_numbers(version: str, numbers: tuple[int, ...]) -> None:
    assert version_numbers(version) == numbers


def test_versions_are_compared_as_numbers() -> None:
    assert is_within("10.13", ">=10.3")
    assert not is_within("10.13", "<10.3")


def test_a_bound_of_another_form_is_our_fault() -> None:
    with pytest.raises(EdgeqBug, match="~=1"):
        is_within("1.0", "~=1")
