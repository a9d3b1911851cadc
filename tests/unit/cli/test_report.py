from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from edgeq.core.files import write_json

RECIPE = {"name": "edgeq", "effort": "quick"}
OUTPUT = {"tensor": "y", "op_type": "Gemm", "grid": "", "sqnr_db": 21.5}
RESULTS = {
    "model": "net.onnx",
    "target": "cpu",
    "bits": "w4a8",
    "agreement": {"samples": 8, "top1_match_ratio": None, "outputs": [OUTPUT]},
    "evaluation": {"float": {"top1_pct": 92.5}, "quantized": {"top1_pct": 91.25}},
    "size_bytes": {"before": 4000, "after": 1000},
    "build": {"recipe": RECIPE},
}


@pytest.fixture
def builds(tmp_path: Path) -> tuple[str, str]:
    """Return the folders of two builds."""
    write_json(tmp_path / "one" / "results.json", RESULTS)
    write_json(tmp_path / "two" / "results.json", {**RESULTS, "bits": "w8a8"})
    return str(tmp_path / "one"), str(tmp_path / "two")


def test_two_builds_become_a_table_and_a_page(edgeq: Any, builds: Any, tmp_path: Path) -> None:
    done = edgeq("report", *builds, "--out", "page.html")
    assert done.code == 0, done.err
    _, first, second, last = done.out.splitlines()
    assert first.split()[:8] == ["one", "w4a8", "edgeq", "cpu", "92.50", "%", "91.25", "%"]
    assert second.split()[:2] == ["two", "w8a8"]
    assert first.endswith("not measured")
    assert last == "page: page.html"
    assert "2 builds side by side" in (tmp_path / "page.html").read_text("utf-8")


def test_json_has_every_build(edgeq: Any, builds: Any) -> None:
    found = json.loads(edgeq("report", *builds, "--json").out)
    assert found["page"] == "builds.html"
    assert [(item["name"], item["top1_after_pct"]) for item in found["builds"]] == [
        ("one", 91.25),
        ("two", 91.25),
    ]


def test_a_page_is_replaced_only_when_told(edgeq: Any, builds: Any, tmp_path: Path) -> None:
    (tmp_path / "builds.html").write_text("mine")
    done = edgeq("report", *builds)
    assert done.code == 3
    assert "--overwrite" in done.err
    assert (tmp_path / "builds.html").read_text() == "mine"
    assert edgeq("report", *builds, "--overwrite").code == 0
    assert (tmp_path / "builds.html").read_text("utf-8").startswith("<!doctype html>")


def test_a_folder_is_no_page(edgeq: Any, builds: Any) -> None:
    done = edgeq("report", *builds, "--out", ".", "--overwrite")
    assert done.code == 3
    assert "error: . exists" in done.err


def test_a_folder_without_a_build_ends_with_3(edgeq: Any, builds: Any, tmp_path: Path) -> None:
    done = edgeq("report", builds[0], str(tmp_path))
    assert done.code == 3
    assert "results.json" in done.err
    assert not (tmp_path / "builds.html").exists()


def measure(folder: str, *names: str) -> None:
    """Write a measurement of two files by ONNX Runtime into a build's folder."""
    (Path(folder) / "model.qdq.onnx").write_bytes(b"")
    sha256 = hashlib.sha256(b"").hexdigest()
    models = [{"model": name, "sha256": sha256, "median_ms": 1.5} for name in names]
    latency = {"backend": "ONNX Runtime, CPU: not a TensorRT latency", "models": models}
    write_json(Path(folder) / "latency.json", latency)


def test_a_latency_is_never_shown_without_what_it_was_measured_with(
    edgeq: Any, builds: Any
) -> None:
    measure(builds[0], "net.onnx", "model.qdq.onnx")
    done = edgeq("report", *builds)
    assert "1.5 ms (ONNX Runtime, CPU: not a TensorRT latency)" in done.out


def test_a_measurement_of_other_files_is_missing_and_a_warning_tells_why(
    edgeq: Any, builds: Any, tmp_path: Path
) -> None:
    measure(builds[0], "model.qdq.onnx", "net.onnx")
    done = edgeq("report", *builds)
    assert done.code == 0
    assert done.out.splitlines()[1].endswith("not measured")
    assert f"warning: {builds[0]}: latency.json is left out: it timed 'model.qdq.onnx'" in done.err
    assert "latency.json is left out" in (tmp_path / "builds.html").read_text("utf-8")
