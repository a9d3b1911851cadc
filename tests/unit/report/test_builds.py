from __future__ import annotations

import pytest

from edgeq.core.errors import InputError
from edgeq.core.files import write_json
from edgeq.report.builds import read_build, read_latency
from edgeq.report.words import Latency

MODELS = [{"model": "a.onnx", "median_ms": 2.0}, {"model": "b.onnx", "median_ms": 1.0}]
MEASURED = {"backend": "ONNX Runtime, CPU", "ratio": 0.5, "models": MODELS}


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
    assert read_latency(tmp_path) == want


@pytest.mark.parametrize(
    "data",
    [[], {}, {**MEASURED, "ratio": None}, {**MEASURED, "models": MODELS[:1]}],
    ids=["list", "empty", "no-ratio", "one-model"],
)
def test_a_file_that_is_no_measurement_of_two_models_is_refused(tmp_path, data):
    write_json(tmp_path / "latency.json", data)
    with pytest.raises(InputError, match="no measurement of two models") as caught:
        read_latency(tmp_path)
    assert "bench_latency.py" in caught.value.mend


REPORT = {
    "passed": True,
    "tensorrt_version": "10.3.0",
    "device": {"name": "Orin"},
    "timing": {"latency_ms": {"median": 0.5}},
}


def test_what_the_board_measured_is_read_and_has_no_float_figure(tmp_path):
    write_json(tmp_path / "device_report.json", REPORT)
    want = Latency(backend="TensorRT 10.3.0 on Orin", before_ms=None, after_ms=0.5, ratio=None)
    assert read_latency(tmp_path) == want


def test_the_devices_figure_is_hidden_by_none_of_another_runtime(tmp_path):
    write_json(tmp_path / "device_report.json", REPORT)
    write_json(tmp_path / "latency.json", MEASURED)
    assert read_latency(tmp_path).backend == "TensorRT 10.3.0 on Orin"
    write_json(tmp_path / "latency.json", {**MEASURED, "backend": "TensorRT 10.3.0, GPU"})
    assert read_latency(tmp_path).backend == "TensorRT 10.3.0, GPU"


@pytest.mark.parametrize("report", [{**REPORT, "passed": False}, {"passed": True}], ids=str)
def test_a_run_that_failed_or_timed_nothing_gives_no_latency(tmp_path, report):
    write_json(tmp_path / "device_report.json", report)
    assert read_latency(tmp_path) is None


@pytest.mark.parametrize("report", [[1], {**REPORT, "device": {}}], ids=["list", "no-name"])
def test_a_report_of_something_else_is_refused(tmp_path, report):
    write_json(tmp_path / "device_report.json", report)
    with pytest.raises(InputError, match="no report of a board"):
        read_latency(tmp_path)


@pytest.mark.parametrize("missing", ["agreement", "build", "size_bytes"])
def test_results_that_are_incomplete_are_refused(tmp_path, results, missing):
    del results[missing]
    write_json(tmp_path / "results.json", results)
    with pytest.raises(InputError, match=f"not what a build writes: KeyError '{missing}'"):
        read_build(tmp_path)


def test_a_folder_without_a_build_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"cannot read results\.json"):
        read_build(tmp_path)
