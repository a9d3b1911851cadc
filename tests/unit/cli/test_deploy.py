"""`edgeq deploy`: its words, what it hands on, and how it ends; the copying has tests of its own."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from deploy.deployment import DeployResult

RESULT = DeployResult(
    address="nvidia@orin",
    folder="edgeq-0123",
    report="device_report.json",
    passed=True,
    verdict="PASS",
    sent_files=3,
    sent_bytes=99,
)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Any]:
    """Stand in for the copying; what it was asked comes into the dictionary, its answer is `result` there."""
    calls: dict[str, Any] = {"result": RESULT}

    def deploy(bundle: Path, access: Any, **more: Any) -> DeployResult:
        calls.update(bundle=bundle, access=access, **more)
        more["say"]("a line of the board")
        return calls["result"]

    monkeypatch.setattr("deploy.deployment.deploy_bundle", deploy)
    (tmp_path / "net" / "bundle").mkdir(parents=True)
    (tmp_path / "net" / "bundle" / "SHA256SUMS").write_text("")
    return calls


@pytest.mark.parametrize("path", ["net", "net/bundle"])
def test_the_bundle_of_a_build_is_found_and_the_report_lies_beside_it(
    edgeq: Any, asked: dict[str, Any], path: str
) -> None:
    done = edgeq("deploy", "nvidia@orin", path)
    assert done.code == 0
    assert asked["bundle"] == Path("net/bundle")
    assert asked["out"] == Path("net/device_report.json")
    assert asked["is_clean"] is False
    assert done.out.splitlines() == ["a line of the board", "PASS: device_report.json"]


def test_the_bundle_may_be_the_folder_in_which_one_stands(
    edgeq: Any, asked: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir("net/bundle")
    assert edgeq("deploy", "nvidia@orin", ".").code == 0
    assert asked["out"] == tmp_path / "net" / "device_report.json"


def test_every_option_is_handed_on(edgeq: Any, asked: dict[str, Any]) -> None:
    words = ["-p", "2222", "--identity", "key", "--accept-new-host-key", "--remote-dir", "d"]
    words += ["--clean", "--rebuild", "--out", "r.json"]
    assert edgeq("deploy", "orin", "net/bundle", *words).code == 0
    access = asked["access"]
    assert (access.address, access.port, access.identity) == ("orin", 2222, Path("key"))
    assert access.accepts_new is True
    assert (asked["folder"], asked["is_clean"], asked["words"]) == ("d", True, ["--rebuild"])
    assert asked["out"] == Path("r.json")


def test_wrong_outputs_end_with_7(edgeq: Any, asked: dict[str, Any]) -> None:
    asked["result"] = dataclasses.replace(RESULT, passed=False, verdict="FAIL: off")
    done = edgeq("deploy", "orin", "net")
    assert done.code == 7
    assert "FAIL: off" in done.err


def test_json_has_standard_output_for_itself(edgeq: Any, asked: dict[str, Any]) -> None:
    done = edgeq("deploy", "orin", "net", "--json")
    assert json.loads(done.out) == RESULT.to_dict()
    assert "a line of the board" in done.err


def test_what_was_left_on_the_board_is_a_warning(edgeq: Any, asked: dict[str, Any]) -> None:
    asked["result"] = dataclasses.replace(RESULT, kept=("thesis.tex",))
    assert "thesis.tex" in edgeq("deploy", "orin", "net", "--clean").err


def test_a_bundle_that_is_not_there_is_told(edgeq: Any, asked: dict[str, Any]) -> None:
    done = edgeq("deploy", "orin", "nowhere")
    assert done.code == 3
    assert "no such bundle" in done.err
