from __future__ import annotations

import hashlib
import importlib.util
import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

from deploy.board.timing import percentile
from deploy.latency import (
    LatencyReport,
    LatencySpec,
    measure_latency,
    parse_shape,
    summarise,
)
from edgeq.core.errors import InputError, ModelError

TOOL = Path(__file__).parents[3] / "tools" / "bench_latency.py"
QUICK = LatencySpec(warm_up_ms=0, duration_s=0.02, iterations=3)
FREE = """
<ir_version: 8, opset_import: ["" : 17]>
g (float[N,3,H,W] x) => (float[N,3,H,W] y) { y = Relu (x) }
"""


@pytest.fixture
def model(tmp_path, teacher):
    onnx.save(teacher, tmp_path / "a.onnx")
    return tmp_path / "a.onnx"


def test_an_input_without_a_shape_is_refused(tmp_path):
    free = parser.parse_model(FREE)
    free.graph.input[0].type.tensor_type.ClearField("shape")
    onnx.save(free, tmp_path / "free.onnx")
    with pytest.raises(ModelError, match="input 'x' has no shape"):
        measure_latency([tmp_path / "free.onnx"], spec=QUICK)


def test_an_input_that_is_one_number_is_timed(tmp_path):
    onnx.save(parser.parse_model(FREE.replace("float[N,3,H,W]", "float")), tmp_path / "k.onnx")
    report = measure_latency([tmp_path / "k.onnx"], spec=QUICK)
    assert report.models[0].shapes == {"x": ()}


@pytest.fixture
def second(tmp_path, qdq):
    onnx.save(qdq, tmp_path / "b.onnx")
    return tmp_path / "b.onnx"


@pytest.fixture
def free(tmp_path):
    onnx.save(parser.parse_model(FREE), tmp_path / "free.onnx")
    return tmp_path / "free.onnx"


@pytest.fixture
def beside(tmp_path):
    """Return a model whose weights lie in weights.bin beside it."""
    text = '<ir_version: 8, opset_import: ["" : 17]> g (float[N,4] x) => (float[N,4] y) { y = Mul (x, w) }'
    model = parser.parse_model(text)
    model.graph.initializer.append(numpy_helper.from_array(np.ones(4, np.float32), "w"))
    path = tmp_path / "beside.onnx"
    onnx.save(model, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    return path


@pytest.fixture
def tool():
    spec = importlib.util.spec_from_file_location("bench_latency", TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# Worked out by hand from findPercentile: index n - 1 - int((1 - p / 100) * n), in float32.
@pytest.mark.parametrize(
    ("count", "pct", "index"),
    [
        (10, 90, 8),  # float32: (1 - 0.9) * 10 is just above 1; in double it would be just below
        (10, 99, 9),
        (20, 95, 18),
        (100, 99, 99),  # float32: (1 - 0.99) * 100 is just below 1
        (1000, 99, 990),
        (1, 90, 0),
        (3, 50, 1),
        (3, 0, 0),
        (3, 100, 2),
    ],
)
def test_percentiles_are_those_of_trtexec(count, pct, index):
    assert percentile(range(count), pct) == index


def test_a_result_names_its_file_and_the_digest_of_it(tmp_path):
    (tmp_path / "m").write_bytes(b"abc")
    result = summarise(tmp_path / "m", [1.0], shapes={})
    assert (result.model, result.sha256) == ("m", hashlib.sha256(b"abc").hexdigest())


def test_the_median_averages_the_two_middle_values(tmp_path):
    (tmp_path / "m").touch()
    result = summarise(tmp_path / "m", [4.0, 1.0, 2.0, 10.0], shapes={})
    assert (result.median_ms, result.min_ms, result.max_ms, result.mean_ms) == (
        3.0,
        1.0,
        10.0,
        4.25,
    )
    assert result.throughput_qps == pytest.approx(1000 / 4.25)
    assert result.cov_pct == pytest.approx(100 * np.std([4, 1, 2, 10]) / 4.25)


def test_two_models_are_called_alternately_in_turning_order(model, second, monkeypatch):
    order = []
    real = __import__("deploy.onnxrt", fromlist=["Session"]).Session.run

    def spy(self, inputs):
        order.append(self._path.name)
        return real(self, inputs)

    monkeypatch.setattr("deploy.onnxrt.Session.run", spy)
    spec = LatencySpec(warm_up_ms=0, duration_s=0, iterations=4)
    measure_latency([model, second], spec=spec)
    a, b = "a.onnx", "b.onnx"
    assert order == [a, b] + [a, b, b, a] * 2  # one warm-up each, then four rounds


def test_the_report_has_both_models_and_their_ratio(model, second):
    report = measure_latency([model, second], spec=QUICK)
    first, other = report.models
    assert [item.model for item in report.models] == ["a.onnx", "b.onnx"]
    assert report.ratio == other.median_ms / first.median_ms
    assert "not a TensorRT latency" in report.backend
    for item in report.models:
        assert item.iterations >= 3
        assert (
            item.min_ms
            <= item.median_ms
            <= item.p90_ms
            <= item.p95_ms
            <= item.p99_ms
            <= item.max_ms
        )


def test_one_model_has_no_ratio(model):
    assert measure_latency([model], spec=QUICK).ratio is None


def test_duration_and_iterations_are_both_least_values(model):
    by_count = measure_latency([model], spec=LatencySpec(warm_up_ms=0, duration_s=0, iterations=7))
    assert by_count.models[0].iterations == 7
    by_time = measure_latency([model], spec=LatencySpec(warm_up_ms=0, duration_s=0.1, iterations=1))
    assert by_time.models[0].iterations > 7


@pytest.mark.parametrize(("batch", "size"), [(None, 1), (4, 4)])
def test_the_batch_fills_the_dynamic_axis(model, batch, size):
    spec = LatencySpec(warm_up_ms=0, duration_s=0, iterations=1, batch=batch)
    assert measure_latency([model], spec=spec).models[0].shapes == {"x": (size, 3, 8, 8)}


def test_a_fixed_batch_is_kept_and_another_is_refused(tmp_path, make_teacher):
    path = tmp_path / "fixed.onnx"
    onnx.save(make_teacher("2"), path)
    assert measure_latency([path], spec=QUICK).models[0].shapes == {"x": (2, 3, 8, 8)}
    with pytest.raises(InputError, match="cannot have the shape 4x3x8x8"):
        measure_latency([path], spec=LatencySpec(batch=4))


def test_dynamic_sizes_need_a_shape(free):
    with pytest.raises(InputError, match="has the dynamic shape"):
        measure_latency([free], spec=QUICK)
    spec = LatencySpec(warm_up_ms=0, duration_s=0, iterations=1, shapes={"x": (2, 3, 5, 6)})
    assert measure_latency([free], spec=spec).models[0].shapes == {"x": (2, 3, 5, 6)}


def test_a_shape_that_the_file_forbids_is_refused(free):
    with pytest.raises(InputError, match=r"cannot have the shape 1x4x5x6"):
        measure_latency([free], spec=LatencySpec(shapes={"x": (1, 4, 5, 6)}))


@pytest.mark.parametrize("batch", [10**13, 10**17, 10**20])
def test_a_batch_that_no_memory_holds_is_refused(model, batch):
    with pytest.raises(InputError, match=r"input 'x' (cannot have|of) the shape"):
        measure_latency([model], spec=LatencySpec(batch=batch))


def test_a_shape_for_an_unknown_input_is_refused(model):
    with pytest.raises(InputError, match="which no model has"):
        measure_latency([model], spec=LatencySpec(shapes={"image": (1, 3, 8, 8)}))


def test_a_shape_is_parsed_to_the_last_colon():
    assert parse_shape("in:0:1x3x8x8") == ("in:0", (1, 3, 8, 8))


@pytest.mark.parametrize("text", ["x", "x:", ":1x3", "x:1x-3", "x:1x0", "x:axb", "x:1,3"])
def test_a_shape_of_another_form_is_refused(text):
    with pytest.raises(InputError, match="is not understood"):
        parse_shape(text)


@pytest.mark.parametrize(
    "change",
    [
        {"iterations": 0},
        {"duration_s": -1.0},
        {"duration_s": math.nan},
        {"batch": 0},
        {"threads": 0},
        {"threads": 10**10},
        {"warm_up_ms": -1.0},
        {"warm_up_ms": math.inf},
        {"seed": -1},
    ],
)
def test_numbers_out_of_range_are_refused(change):
    with pytest.raises(InputError, match="out of range"):
        LatencySpec(**change)


def test_the_report_survives_json(model, second):
    report = measure_latency([model, second], spec=QUICK)
    assert LatencyReport.from_dict(report.to_dict()) == report


def test_the_tool_prints_a_table_that_says_what_it_is(tool, model, second, capsys):
    code = tool.main([str(model), str(second), "--duration-s", "0", "--warm-up-ms", "0"])
    out = capsys.readouterr().out
    assert code == 0
    assert "not a TensorRT latency" in out
    assert "ratio of medians B/A" in out
    assert "p99" in out


def test_the_tool_reports_a_dynamic_size_with_exit_code_3(tool, free, capsys):
    assert tool.main([str(free)]) == 3
    error = capsys.readouterr().err
    assert "dynamic shape ?x3x?x?" in error
    assert "--shape x:1x3x224x224" in error


def test_the_tool_reports_a_missing_file_with_exit_code_3(tool, tmp_path, capsys):
    assert tool.main([str(tmp_path / "gone.onnx")]) == 3
    assert "there is no such model" in capsys.readouterr().err


def test_the_tool_says_which_data_beside_a_model_is_missing(tool, beside, capsys):
    (beside.parent / "weights.bin").unlink()
    assert tool.main([str(beside)]) == 3
    error = capsys.readouterr().err
    assert "external data files that are missing: 'w' (weights.bin)" in error


def test_data_beside_a_model_is_left_there(beside, monkeypatch):
    """A model of more than 2 GB is timed, too: ONNX Runtime reads its weights itself."""
    monkeypatch.setattr("edgeq.graph.storage.BYTES_MAX", 100)
    (found,) = measure_latency([beside], spec=QUICK).models
    assert found.shapes == {"x": (1, 4)}


def test_the_tool_says_that_a_name_cannot_be_read(tool, capsys):
    assert tool.main(["n" * 5000]) == 3
    assert "the model cannot be read: " in capsys.readouterr().err


def test_an_interrupt_ends_the_tool_with_130(tool, model, monkeypatch, capsys):
    def interrupt(*args, **words):
        raise KeyboardInterrupt

    monkeypatch.setattr(tool, "measure_latency", interrupt)
    assert tool.main([str(model)]) == 130
    assert capsys.readouterr().err == "interrupted\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
def test_a_full_disk_behind_standard_output_is_said(model):
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, str(TOOL), str(model), "--duration-s", "0", "--warm-up-ms", "0"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 3
    assert done.stderr.startswith("error: the figures cannot be written: No space left")


def test_the_tool_runs_as_a_script_and_prints_json(model, second, tmp_path):
    options = ["--duration-s", "0", "--warm-up-ms", "0", "--threads", "1", "--shape", "x:2x3x8x8"]
    done = subprocess.run(
        [sys.executable, str(TOOL), str(model), str(second), "--json", *options],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
    )
    report = LatencyReport.from_dict(json.loads(done.stdout))
    assert report.models[0].shapes == {"x": (2, 3, 8, 8)}
    assert report.spec.threads == 1
