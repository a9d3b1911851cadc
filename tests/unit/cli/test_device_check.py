from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest


@pytest.mark.skipif(
    importlib.util.find_spec("tensorrt") is not None, reason="this machine has TensorRT"
)
def test_a_machine_without_tensorrt_ends_with_5_and_says_what_is_missing(
    edgeq: Any, tmp_path: Path
) -> None:
    done = edgeq("device-check", "--target", "jetson-orin", "--out", "found.json")
    assert done.code == 5
    assert "module 'tensorrt'" in done.err
    assert json.loads((tmp_path / "found.json").read_text())["target"] == "jetson-orin"


def test_the_findings_are_printed_as_json(edgeq: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def check(folder: Path, *, out: Path, say: Any) -> dict[str, Any]:
        assert (folder / "probes.json").is_file()
        say("a line")
        return {"probes": {}}

    monkeypatch.setattr("deploy.board.device_check.check_device", check)
    done = edgeq("device-check", "--json")
    assert json.loads(done.out) == {"probes": {}}
    assert "a line" in done.err


def test_an_unknown_target_is_told(edgeq: Any) -> None:
    assert edgeq("device-check", "--target", "jetson-onion").code == 4
