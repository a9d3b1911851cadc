from __future__ import annotations

import importlib
import json
import re
from pathlib import Path
from typing import Any

import pytest

from edgeq.cli import doctor

PYPROJECT = Path(__file__).parents[3] / "pyproject.toml"


def test_a_usable_machine_ends_with_0(edgeq: Any) -> None:
    done = edgeq("doctor")
    assert done.code == 0
    found = {line.split("  ")[0] for line in done.out.splitlines()}
    assert {"python", "torch", "tensorrt", "calib", "cuda", "cores", "free memory"} <= found


def test_it_looks_for_what_the_package_depends_on() -> None:
    (block,) = re.findall(r"^dependencies = \[(.*?)^\]", PYPROJECT.read_text("utf-8"), re.M | re.S)
    names = set(re.findall(r'^    "([\w-]+)', block, re.M))
    assert names - {"tomli"} == set(doctor.REQUIRED) - {"tomli"}


def test_a_missing_package_ends_with_5_and_the_command_that_mends_it(
    edgeq: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(doctor.REQUIRED, "no-such-thing", "no_such_thing")
    done = edgeq("doctor")
    assert done.code == 5
    assert "no-such-thing: not installed" in done.err
    assert "mend: pip install --force-reinstall no-such-thing" in done.err


def test_a_package_that_cannot_be_loaded_is_not_called_absent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(name: str) -> None:
        message = "libgomp.so.1: cannot open shared object file"
        raise OSError(message)

    monkeypatch.setattr(importlib, "import_module", fail)
    check = doctor.check_package("torch", "torch", is_required=True)
    assert check.found == "cannot be loaded: libgomp.so.1: cannot open shared object file"


def test_an_optional_package_may_be_absent() -> None:
    check = doctor.check_package("no-such-thing", "no_such_thing", is_required=False)
    assert (check.found, check.mend) == ("not installed (optional)", "")


def test_a_package_that_hides_one_of_ours_is_reported(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "calib").mkdir()
    (tmp_path / "calib" / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(__import__("sys").modules, "calib", raising=False)
    check = doctor.check_place("calib")
    assert check.found == f"hidden by {tmp_path / 'calib'}"
    assert "rename or uninstall the other 'calib'" in check.mend


def test_json_has_one_entry_a_check(edgeq: Any) -> None:
    checks = {item["name"]: item for item in json.loads(edgeq("doctor", "--json").out)}
    assert checks["deploy"] == {"name": "deploy", "found": "the one beside edgeq", "mend": ""}
