from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from edgeq.core.errors import InputError
from edgeq.core.files import write_json
from edgeq.report.builds import read_build, read_latency
from edgeq.report.words import Latency

FILE = b"what a build writes"
FLOAT, QUANTIZED = (
    {"model": "net.onnx", "median_ms": 2.0},
    {"model": "model.qdq.onnx", "median_ms": 1.0, "sha256": hashlib.sha256(FILE).hexdigest()},
)
MEASURED = {"backend": "ONNX Runtime, CPU", "models": [FLOAT, QUANTIZED]}
ENGINES = {
    "backend": "TensorRT 10.3.0, GPU",
    "models": [
        {"model": name, "median_ms": 1.0, "engine_sha256": "5" * 64}
        for name in ("float.plan", "engine.plan")
    ],
}


def measured(folder: Path) -> Latency | None:
    """Return what is shown of the build of net.onnx in `folder`, which has no file that is left out."""
    found = read_latency(folder, "net.onnx")
    assert found.left_out == ()
    return found.latency


@pytest.fixture(autouse=True)
def _quantized(tmp_path) -> None:
    (tmp_path / "model.qdq.onnx").write_bytes(FILE)
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / "SHA256SUMS").write_bytes(SEAL)


def test_a_build_is_read_from_its_folder(tmp_path, results):
    write_json(tmp_path / "results.json", results)
    row = read_build(tmp_path)
    assert (row.name, row.bits, row.size_kb) == (tmp_path.name, "w4a8", 1.0)
    assert (row.match_pct, row.sqnr_db) == (93.75, 21.5)
    assert row.top1_before_pct is row.top1_after_pct is row.latency_ms is row.backend is None


def test_builds_are_compared_by_their_optimised_samples(tmp_path, results):
    results["agreement"]["parts"] = [
        {"kind": "optimised samples", "samples": 4, "top1_match_ratio": 1.0},
        {"kind": "dead leaves", "samples": 12, "top1_match_ratio": 0.5},
    ]
    write_json(tmp_path / "results.json", results)
    assert read_build(tmp_path).match_pct == 100


def test_a_measurement_beside_the_results_is_read_too(tmp_path, results):
    write_json(tmp_path / "results.json", results)
    write_json(tmp_path / "latency.json", MEASURED)
    row = read_build(tmp_path)
    assert (row.float_latency_ms, row.latency_ms, row.backend) == (2.0, 1.0, "ONNX Runtime, CPU")
    want = Latency(backend="ONNX Runtime, CPU", before_ms=2.0, after_ms=1.0, ratio=0.5)
    assert measured(tmp_path) == want


# What may lie there instead, and what is said of it.
OTHERS: dict[str, tuple[Any, str]] = {
    "list": ([], "it has another form"),
    "empty": ({}, "it has another form"),
    "one-model": ({**MEASURED, "models": [FLOAT]}, "no measurement of two models"),
    "swapped": (
        {**MEASURED, "models": [QUANTIZED, FLOAT]},
        "it timed 'model.qdq.onnx' and then 'net.onnx', not 'net.onnx' and then 'model.qdq.onnx'",
    ),
    "other-network": (
        {**MEASURED, "models": [{**FLOAT, "model": "resnet50.onnx"}, QUANTIZED]},
        "it timed 'resnet50.onnx' and then 'model.qdq.onnx', not 'net.onnx'",
    ),
    "earlier-build": (
        {**MEASURED, "models": [FLOAT, {**QUANTIZED, "sha256": "5" * 64}]},
        "it timed another 'model.qdq.onnx' than the one beside it",
    ),
    "no-engines": (
        {**MEASURED, "backend": "TensorRT 10.3.0"},
        "a latency of TensorRT to files that are no engines",
    ),
    "nan": ({**MEASURED, "models": [FLOAT, {**QUANTIZED, "median_ms": float("nan")}]}, "nan ms"),
    "zero": ({**MEASURED, "models": [{**FLOAT, "median_ms": 0}, QUANTIZED]}, "0 ms"),
    "endless": ({**MEASURED, "models": [FLOAT, {**QUANTIZED, "median_ms": 10**400}]}, "another"),
}


@pytest.mark.parametrize(("data", "reason"), OTHERS.values(), ids=OTHERS)
def test_a_file_that_did_not_time_this_build_is_left_out(tmp_path, caplog, data, reason):
    (tmp_path / "latency.json").write_text(json.dumps(data), "utf-8")
    found = read_latency(tmp_path, "net.onnx")
    assert found.latency is None
    (sentence,) = found.left_out
    assert sentence.startswith("latency.json is left out: ")
    assert reason in sentence
    assert "bench_latency.py MODEL model.qdq.onnx --json" in sentence
    assert [record.getMessage() for record in caplog.records] == [f"{tmp_path}: {sentence}"]


@pytest.mark.parametrize("text", ["", '{"backend": "ONNX'], ids=["empty", "cut-off"])
@pytest.mark.parametrize("name", ["latency.json", "device_report.json"])
def test_what_a_failed_command_leaves_counts_as_not_measured(tmp_path, results, name, text):
    write_json(tmp_path / "results.json", results)
    (tmp_path / name).write_text(text)
    row = read_build(tmp_path)
    assert row.latency_ms is None
    assert row.left_out[0].startswith(f"{name} is left out: it is no JSON")


def test_a_figure_that_is_left_out_hides_no_other(tmp_path):
    write_json(tmp_path / "latency.json", MEASURED)
    (tmp_path / "device_report.json").write_text("")
    found = read_latency(tmp_path, "net.onnx")
    assert (found.latency.after_ms, len(found.left_out)) == (1.0, 1)


SEAL = b"the digests of a bundle"
REPORT = {
    "passed": True,
    "bundle_sha256": hashlib.sha256(SEAL).hexdigest(),
    "tensorrt_version": "10.3.0",
    "device": {"name": "Orin"},
    "timing": {"latency_ms": {"median": 0.5}},
}


def test_what_the_board_measured_is_read_and_has_no_float_figure(tmp_path):
    write_json(tmp_path / "device_report.json", REPORT)
    want = Latency(backend="TensorRT 10.3.0 on Orin", before_ms=None, after_ms=0.5, ratio=None)
    assert measured(tmp_path) == want


def test_what_the_board_measured_of_another_bundle_is_left_out(tmp_path):
    write_json(tmp_path / "device_report.json", {**REPORT, "bundle_sha256": "5" * 64})
    found = read_latency(tmp_path, "net.onnx")
    assert found.latency is None
    assert "of another bundle than the one beside it" in found.left_out[0]


def test_the_devices_figure_is_hidden_by_none_of_another_runtime(tmp_path):
    write_json(tmp_path / "device_report.json", REPORT)
    write_json(tmp_path / "latency.json", MEASURED)
    assert measured(tmp_path).backend == "TensorRT 10.3.0 on Orin"
    write_json(tmp_path / "latency.json", ENGINES)
    assert measured(tmp_path).backend == "TensorRT 10.3.0, GPU"


@pytest.mark.parametrize("report", [{**REPORT, "passed": False}, {"passed": True}], ids=str)
def test_a_run_that_failed_or_timed_nothing_gives_no_latency(tmp_path, report):
    write_json(tmp_path / "device_report.json", report)
    assert measured(tmp_path) is None


@pytest.mark.parametrize(
    "report",
    [[1], {**REPORT, "device": {}}, {**REPORT, "timing": {"latency_ms": {"median": -1}}}],
    ids=["list", "no-name", "negative"],
)
def test_a_report_of_something_else_is_left_out(tmp_path, report):
    write_json(tmp_path / "device_report.json", report)
    found = read_latency(tmp_path, "net.onnx")
    assert found.latency is None
    assert "run `edgeq deploy` again" in found.left_out[0]


@pytest.mark.parametrize("wrong", ["NaN", "1e999", '"x"'])
def test_results_without_a_finite_figure_are_refused(tmp_path, results, wrong):
    (tmp_path / "results.json").write_text(json.dumps(results).replace("21.5", wrong))
    with pytest.raises(InputError, match=r"results\.json is not what a build writes"):
        read_build(tmp_path)


@pytest.mark.parametrize("wrong", ["x", [1], {}])
def test_results_whose_shares_are_no_numbers_are_refused(tmp_path, results, wrong):
    shares = {name: {"top1_pct": wrong} for name in ("float", "quantized")}
    write_json(tmp_path / "results.json", {**results, "evaluation": shares})
    with pytest.raises(InputError, match=r"results\.json is not what a build writes"):
        read_build(tmp_path)


@pytest.mark.parametrize("missing", ["agreement", "build", "size_bytes"])
def test_results_that_are_incomplete_are_refused(tmp_path, results, missing):
    del results[missing]
    write_json(tmp_path / "results.json", results)
    with pytest.raises(InputError, match=f"not what a build writes: KeyError '{missing}'"):
        read_build(tmp_path)


def test_a_folder_without_a_build_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"cannot read results\.json"):
        read_build(tmp_path)
