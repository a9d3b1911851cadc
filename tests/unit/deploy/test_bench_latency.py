"""The tool on engines, over the stand-ins for TensorRT and for the driver; ONNX files are in test_latency."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from fake_trt import Script, make_tensorrt
from fake_trt.cuda import FakeCuda
from fake_trt.cuda_libraries import make_cuda_bindings, make_pycuda

import deploy.board.cuda
import deploy.cuda_backends
from deploy.board.driver import probe_driver
from deploy.onnxrt import Session
from deploy.trtexec_times import read_times
from edgeq.core.errors import InputError
from edgeq.core.files import digest_file

ROOT = Path(__file__).parents[3]
TIMES = ROOT / "tests" / "data" / "trtexec_times.json"
QUICK = ("--warm-up-ms", "0", "--duration-s", "0", "--iterations", "5")


@pytest.fixture
def tool():
    spec = importlib.util.spec_from_file_location(
        "bench_latency", ROOT / "tools" / "bench_latency.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def plan(tmp_path) -> Path:
    path = tmp_path / "engine.plan"
    path.write_bytes(b"ftrt" + bytes(96))
    return path


@pytest.fixture
def script(qdq) -> Script:
    """An engine with a dynamic batch that answers what ONNX Runtime answers for the Q/DQ model."""
    played = Script(cuda=FakeCuda(), compute=Session(qdq).run)
    played.tensors = [
        ("x", "INPUT", "FLOAT", [-1, 3, 8, 8]),
        ("logits", "OUTPUT", "FLOAT", [-1, 5]),
    ]
    return played


@pytest.fixture
def gpu(script, monkeypatch):
    """Return a function that puts TensorRT of a release and the GPU in their places."""

    def place(release: str = "10.3") -> None:
        driver = script.cuda
        monkeypatch.setitem(sys.modules, "tensorrt", make_tensorrt(release, script))
        monkeypatch.setitem(sys.modules, "cuda.bindings.driver", make_cuda_bindings(driver))
        monkeypatch.setitem(sys.modules, "pycuda.driver", make_pycuda(driver))
        monkeypatch.setattr("ctypes.CDLL", lambda name: driver)
        monkeypatch.setattr(
            "deploy.engine.measure.probe_driver", lambda: probe_driver(lambda name: driver)
        )
        real = deploy.board.cuda.Cuda
        monkeypatch.setattr(
            deploy.cuda_backends,
            "Cuda",
            lambda **words: real(open_library=lambda name: driver, **words),
        )
        monkeypatch.setenv("PATH", "/nonexistent")

    return place


def _run(tool: Any, capsys: Any, *words: object) -> tuple[int, str, str]:
    code = tool.main([*map(str, words), *QUICK])
    said = capsys.readouterr()
    return code, said.out, said.err


@pytest.mark.parametrize("release", ["8.5", "8.6", "10.3", "10.16", "11.4"])
def test_an_engine_is_timed_under_every_generation(tool, gpu, script, plan, capsys, release):
    gpu(release)
    code, out, err = _run(tool, capsys, plan, "--json")
    assert code == 0, err
    report = json.loads(out)
    (item,) = report["models"]
    # The stand-in's clock moves by 2 ms a run, so every statistic is known.
    assert set(item["gpu_compute_ms"].values()) == {2.0}
    assert item["median_ms"] == 2.0
    assert item["shapes"] == {"x": [4, 3, 8, 8]}  # what the engine is tuned for
    assert item["settings"]["queries"] >= 5
    assert item["memory"] == "managed"  # integrated GPU, no transfers: as trtexec
    assert script.cuda.live == {}


@pytest.mark.parametrize(
    ("words", "settings", "named"),
    [
        ((), (False, True, True), "the defaults of trtexec 11"),
        (("--trtexec-defaults", "10"), (True, False, False), "the defaults of trtexec 8 to 10"),
        (("--transfers",), (True, True, True), "the defaults of no trtexec"),
        (("--no-cuda-graph",), (False, True, False), "the defaults of no trtexec"),
        (("--no-spin-wait",), (False, False, True), "the defaults of no trtexec"),
    ],
)
def test_the_three_changed_defaults_are_stated(tool, gpu, plan, capsys, words, settings, named):
    gpu()
    code, out, _ = _run(tool, capsys, plan, *words)
    assert code == 0
    assert named in out
    assert "11 counts none, spins and uses a graph" in out
    report = json.loads(_run(tool, capsys, plan, *words, "--json")[1])
    found = report["models"][0]["settings"]
    assert (found["has_transfers"], found["is_spinning"], found["has_graph"]) == settings


def test_an_engine_for_dla_runs_on_the_core_of_its_record(tool, gpu, script, plan, capsys):
    gpu()
    assert _run(tool, capsys, plan)[0] == 0
    _write_record(plan, dla_core=1)
    code, out, _ = _run(tool, capsys, plan)
    assert code == 0
    assert "DLA core 1, by the record beside the engine" in out
    assert json.loads(_run(tool, capsys, plan, "--json")[1])["models"][0]["dla_core"] == 1
    assert script.asked["cores"] == [None, 1, 1]


def test_a_version_compatible_engine_is_trusted_where_its_record_says_so(
    tool, gpu, script, plan, capsys
):
    gpu()
    _write_record(plan, is_version_compatible=True)
    assert _run(tool, capsys, plan)[0] == 0
    assert script.asked["is_trusted"] is True
    plan.write_bytes(b"ftrt" + bytes(97))  # another engine, which brings what code it likes
    assert _run(tool, capsys, plan)[0] == 0
    assert script.asked["is_trusted"] is False


def _write_record(plan: Path, **request: object) -> None:
    record = {"engine_sha256": digest_file(plan), "request": request}
    plan.with_name(f"{plan.name}.json").write_text(json.dumps(record))


@pytest.mark.parametrize("library", ["ctypes", "cuda-python", "pycuda"])
def test_every_library_times_the_same_engine(tool, gpu, script, plan, capsys, library):
    gpu()
    code, out, err = _run(tool, capsys, plan, "--cuda", library, "--json")
    assert code == 0, err
    (item,) = json.loads(out)["models"]
    assert item["cuda_library"] == library
    assert item["gpu_compute_ms"]["median"] == 2.0
    assert item["settings"]["has_graph"] is (library != "pycuda")
    assert any("no CUDA graph" in text for text in item["warnings"]) is (library == "pycuda")
    assert script.cuda.live == {}


def test_a_driver_without_graphs_of_this_form_times_without_one(tool, gpu, script, plan, capsys):
    script.cuda.lacking = ("cuGraphInstantiateWithFlags",)
    gpu()
    code, out, err = _run(tool, capsys, plan, "--json")
    assert code == 0, err
    (item,) = json.loads(out)["models"]
    assert item["settings"]["has_graph"] is False
    assert "no CUDA graph: the NVIDIA driver has no cuGraphInstantiateWithFlags" in item["warnings"]


def test_two_engines_have_a_ratio(tool, gpu, plan, capsys):
    gpu()
    assert json.loads(_run(tool, capsys, plan, plan, "--json")[1])["ratio"] == 1.0
    assert "ratio of median GPU compute times B/A: 1.000" in _run(tool, capsys, plan, plan)[1]


def test_a_batch_and_a_shape_replace_what_the_engine_is_tuned_for(tool, gpu, plan, capsys):
    gpu()
    report = json.loads(_run(tool, capsys, plan, "--batch", "2", "--json")[1])
    assert report["models"][0]["shapes"] == {"x": [2, 3, 8, 8]}
    report = json.loads(_run(tool, capsys, plan, "--shape", "x:7x3x8x8", "--json")[1])
    assert report["models"][0]["shapes"] == {"x": [7, 3, 8, 8]}
    code, _, err = _run(tool, capsys, plan, "--shape", "y:7x3x8x8")
    assert code == 3
    assert "which no model has" in err


@pytest.mark.parametrize("shape", [[1, 3, 8, 8], [1, 3, -1, 8]])
def test_a_batch_that_an_engine_does_not_take_is_refused(tool, gpu, script, plan, capsys, shape):
    gpu()
    script.tensors[0] = ("x", "INPUT", "FLOAT", shape)
    code, _, err = _run(tool, capsys, plan, "--batch", "8")
    assert code == 3
    assert "input 'x' cannot have the shape 8x3x" in err


def test_an_input_that_is_one_number_has_no_axes(tool, gpu, script, plan, capsys):
    gpu()
    script.tensors.insert(1, ("k", "INPUT", "FLOAT", []))
    right = script.compute
    script.compute = lambda feed: right({"x": feed["x"]})
    code, out, err = _run(tool, capsys, plan, "--json")
    assert code == 0, err
    assert json.loads(out)["models"][0]["shapes"] == {"x": [4, 3, 8, 8], "k": []}


def test_trtexec_stands_beside_the_engine(tool, gpu, plan, capsys):
    gpu()
    code, out, _ = _run(tool, capsys, plan, "--against", TIMES)
    assert code == 0
    assert "trtexec: transfers on; spin wait not told by the file; CUDA graph not told" in out
    # Median of 2, 3, 4 and 9 ms is 3.5; ours is 2.
    assert "median GPU compute time of engine.plan / trtexec: 0.571" in out
    assert "one counts transfers and the other does not" in out
    _, out, _ = _run(tool, capsys, plan, "--against", TIMES, "--transfers")
    assert "one counts transfers and the other does not" not in out


def test_times_of_trtexec_are_read_without_an_engine(tool, capsys):
    assert tool.main(["--against", str(TIMES), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["against"] == read_times(TIMES)


def test_figures_of_a_stored_file_are_those_worked_out_by_hand():
    found = read_times(TIMES)
    assert found["gpu_compute_ms"] == {
        "min": 2.0,
        "max": 9.0,
        "mean": 4.5,
        "median": 3.5,
        "p90": 9.0,  # int((1 - 0.9) * 4) is 0: the last of four
        "p95": 9.0,
        "p99": 9.0,
    }
    assert found["latency_ms"]["median"] == (3.375 + 4.375) / 2
    assert found["latency_ms"]["max"] == 10.855
    assert found["h2d_ms"]["mean"] == 0.25
    assert found["d2h_ms"]["median"] == 0.125
    assert found["enqueue_ms"]["min"] == pytest.approx(0.02)
    assert found["enqueue_ms"]["max"] == pytest.approx(0.041)
    # Four queries from the first copy in, at 203.105 ms, to the last copy out, at 223.105 ms.
    assert found["throughput_qps"] == pytest.approx(4 / 0.020)
    assert found["cov_pct"] == pytest.approx(100 * np.std([2, 3, 4, 9]) / 4.5)
    assert (found["queries"], found["has_transfers"]) == (4, True)


@pytest.mark.parametrize("text", ["[]", "{}", '[{"computeMs": 1}]', '[{"latencyMs": "x"}]', "[1]"])
def test_another_file_is_refused_with_the_command_that_makes_one(tmp_path, text):
    (tmp_path / "times.json").write_text(text)
    with pytest.raises(InputError, match="no times of trtexec") as caught:
        read_times(tmp_path / "times.json")
    assert "--exportTimes=" in caught.value.mend


@pytest.mark.parametrize("name", ["computeMs", "endEnqMs", "startH2dMs", "endD2hMs"])
@pytest.mark.parametrize("value", ["NaN", "1e999", "1" + 400 * "0"], ids=["nan", "inf", "huge"])
def test_times_that_are_no_numbers_are_refused_before_anything_runs(
    tool, plan, tmp_path, capsys, name, value
):
    rows = [{**row, name: "VALUE"} for row in json.loads(TIMES.read_text())]
    path = tmp_path / "times.json"
    path.write_text(json.dumps(rows).replace('"VALUE"', value))
    code, _, err = _run(tool, capsys, plan, "--against", path)  # no GPU is asked for
    assert code == 3
    assert "no times of trtexec" in err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "nothing to time"),
        (("a.onnx", "PLAN"), "an ONNX file and an engine"),
        (("a.onnx", "--against", TIMES), "--against has no effect on ONNX files on the processor"),
        (("a.onnx", "--transfers"), "--transfers has no effect on ONNX files on the processor"),
        (("a.onnx", "--trtexec-defaults", "10"), "--trtexec-defaults has no effect on ONNX files"),
        (("a.onnx", "--cuda", "pycuda"), "--cuda has no effect on ONNX files on the processor"),
        (
            ("a.onnx", "--backend", "onnxrt-cuda", "--no-spin-wait"),
            "--spin-wait has no effect on ONNX files with a --backend on a GPU",
        ),
        (("PLAN", "--backend", "onnxrt-cuda"), "--backend has no effect on TensorRT engines"),
        (("PLAN", "--threads", "2"), "--threads has no effect on TensorRT engines"),
        (("--against", TIMES, "--seed", "0"), "--seed has no effect on a file of trtexec alone"),
    ],
)
def test_figures_of_two_kinds_and_options_without_effect_are_refused(
    tool, plan, teacher, tmp_path, monkeypatch, capsys, words, said
):
    monkeypatch.chdir(tmp_path)
    onnx.save(teacher, "a.onnx")
    code = tool.main([str(plan if word == "PLAN" else word) for word in words])
    assert code == 3
    assert said in capsys.readouterr().err


def test_without_a_driver_the_tool_ends_with_6(tool, plan, monkeypatch, capsys):
    def absent(name: str) -> None:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr("deploy.engine.measure.probe_driver", lambda: probe_driver(absent))
    code, _, err = _run(tool, capsys, plan)
    assert code == 6
    assert "no NVIDIA driver" in err


@pytest.mark.parametrize("missing", ["tensorrt", "cuda.bindings.driver", "pycuda.driver"])
def test_a_missing_library_ends_with_5(tool, gpu, plan, monkeypatch, capsys, missing):
    gpu()
    library = {"cuda.bindings.driver": "cuda-python", "pycuda.driver": "pycuda"}
    monkeypatch.setitem(sys.modules, missing, None)
    code, _, err = _run(tool, capsys, plan, "--cuda", library.get(missing, "ctypes"))
    assert code == 5
    assert "pip install" in err


def test_a_missing_provider_ends_with_5(tool, teacher, tmp_path, capsys):
    onnx.save(teacher, tmp_path / "a.onnx")
    code, _, err = _run(tool, capsys, tmp_path / "a.onnx", "--backend", "onnxrt-tensorrt")
    assert code == 5
    assert "TensorrtExecutionProvider" in err
    assert "onnxruntime-gpu" in err


def test_a_provider_on_a_gpu_states_what_it_counts_and_the_power(
    tool, teacher, tmp_path, monkeypatch, capsys
):
    import onnxruntime

    real = onnxruntime.InferenceSession
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(
        onnxruntime,
        "InferenceSession",
        lambda content, options, providers: real(
            content, options, providers=["CPUExecutionProvider"]
        ),
    )
    monkeypatch.setattr("deploy.providers._require_started", lambda session, name: None)
    monkeypatch.setenv("PATH", "/nonexistent")
    onnx.save(teacher, tmp_path / "a.onnx")
    words = ("--backend", "onnxrt-cuda", "--trtexec-defaults", "10")
    code, out, err = _run(tool, capsys, tmp_path / "a.onnx", *words)
    assert code == 0, err
    assert "this run: transfers on; spin wait as ONNX Runtime chooses; CUDA graph off" in out
    assert "11 counts none, spins and uses a graph" in out
    assert "clocks and power: not recorded" in out


def test_an_engine_that_cannot_be_loaded_is_a_failed_run(tool, gpu, script, plan, capsys):
    gpu()
    script.loads = False
    code, _, err = _run(tool, capsys, plan)
    assert code == 6
    assert "cannot load the engine" in err


def test_clocks_and_power_are_part_of_the_figure(tool, gpu, plan, tmp_path, monkeypatch, capsys):
    gpu()
    assert "not recorded, neither tegrastats nor nvidia-smi" in _run(tool, capsys, plan)[1]
    script = tmp_path / "tegrastats"
    script.write_text(
        "#!/bin/sh\necho 'GR3D_FREQ 99%@[918] gpu@50C VDD_IN 10000mW/9000mW'\nexec /bin/sleep 30\n"
    )
    script.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    power = json.loads(_run(tool, capsys, plan, "--json")[1])["models"][0]["power"]
    assert (power["tool"], power["mean_power_w"]) == ("tegrastats", 10.0)
    assert power["gpu_mhz_end"] == 918.0
    script.unlink()
    script.with_name("nvidia-smi").write_text("#!/bin/sh\necho '60, 1500, 2619, 40'\n")
    script.with_name("nvidia-smi").chmod(0o755)
    assert (
        "nvidia-smi: gpu 0000:65:00.0, readings 1, mean_power_w 60" in _run(tool, capsys, plan)[1]
    )
