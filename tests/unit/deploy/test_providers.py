from __future__ import annotations

import json

import numpy as np
import onnx
import pytest

from deploy.latency import LatencyReport, LatencySpec
from deploy.onnxrt import Session
from deploy.providers import GPU_BACKENDS, bind_call, measure_on_gpu
from edgeq.core.errors import MissingDependencyError
from edgeq.core.serial import canonical_json

SPEC = LatencySpec(warm_up_ms=0, duration_s=0, iterations=3)


@pytest.fixture
def model(tmp_path, teacher):
    onnx.save(teacher, tmp_path / "a.onnx")
    return tmp_path / "a.onnx"


@pytest.fixture
def played(monkeypatch):
    """Play a GPU provider with that of the CPU; return the providers that sessions were made with."""
    import onnxruntime

    real, asked = onnxruntime.InferenceSession, []

    class Played:
        def __init__(self, content, options, providers):
            asked.append(providers)
            self._real = real(content, options, providers=["CPUExecutionProvider"])

        def get_providers(self):
            return [asked[-1][0][0], "CPUExecutionProvider"]

        def __getattr__(self, name):
            return getattr(self._real, name)

    monkeypatch.setattr(onnxruntime, "InferenceSession", Played)
    monkeypatch.setattr(
        onnxruntime,
        "get_available_providers",
        lambda: ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"],
    )
    return asked


@pytest.mark.parametrize("backend", GPU_BACKENDS)
def test_a_missing_provider_is_a_missing_dependency(model, backend):
    with pytest.raises(MissingDependencyError, match="this ONNX Runtime has no") as caught:
        measure_on_gpu([model], backend, SPEC, has_transfers=False, has_graph=True)
    assert "onnxruntime-gpu" in caught.value.mend


def test_a_provider_that_falls_back_to_the_cpu_is_not_measured(model, monkeypatch):
    import onnxruntime

    names = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    real = onnxruntime.InferenceSession
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: names)
    monkeypatch.setattr(
        onnxruntime,
        "InferenceSession",
        lambda content, options, providers: real(
            content, options, providers=["CPUExecutionProvider"]
        ),
    )
    with pytest.raises(MissingDependencyError, match="would run on CPUExecutionProvider"):
        measure_on_gpu([model], "onnxrt-cuda", SPEC, has_transfers=True, has_graph=False)


@pytest.mark.parametrize(
    ("backend", "transfers", "graph", "options"),
    [
        ("onnxrt-cuda", False, True, {"enable_cuda_graph": "1"}),
        ("onnxrt-cuda", False, False, {}),
        ("onnxrt-cuda", True, True, {}),  # a graph needs fixed addresses
        (
            "onnxrt-tensorrt",
            False,
            True,
            {"trt_int8_enable": "1", "trt_fp16_enable": "1", "trt_cuda_graph_enable": "1"},
        ),
    ],
)
def test_the_provider_gets_its_options_and_the_report_says_what_was_measured(
    model, played, backend, transfers, graph, options
):
    report = measure_on_gpu(
        [model, model], backend, SPEC, has_transfers=transfers, has_graph=graph, device="cpu"
    )
    assert played[0][0][1] == options
    uses_graph = "on" if graph and not transfers else "off"
    assert report.defaults.startswith(
        f"this run: transfers {'on' if transfers else 'off'}; spin wait as ONNX Runtime chooses; "
        f"CUDA graph {uses_graph}; trtexec 8 to 10 counts transfers"
    )
    assert [item.iterations for item in report.models] == [3, 3]
    assert report.ratio == report.models[1].median_ms / report.models[0].median_ms


def test_clocks_and_power_are_recorded_of_all_models_together(model, played, tmp_path, monkeypatch):
    script = tmp_path / "tegrastats"
    script.write_text(
        "#!/bin/sh\necho 'GR3D_FREQ 99%@[918] VDD_IN 10000mW/9000mW'\nexec /bin/sleep 30\n"
    )
    script.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    report = measure_on_gpu(
        [model, model], "onnxrt-cuda", SPEC, has_transfers=True, has_graph=False
    )
    power = report.power
    assert (power["tool"], power["mean_power_w"], power["gpu_mhz_end"]) == ("tegrastats", 10.0, 918)
    # Both have as many calls, so the energy of a call is that of their mean time: mW s a call.
    assert power["energy_mj"] == pytest.approx(10 * sum(item.mean_ms for item in report.models) / 2)
    assert LatencyReport.from_dict(json.loads(canonical_json(report.to_dict()))) == report


def test_a_bound_call_computes_what_a_plain_one_does(model):
    session = Session(model, optimise=True)
    feed = {"x": np.random.default_rng(0).standard_normal((2, 3, 8, 8)).astype(np.float32)}
    call = bind_call(session, feed, "cpu")
    call()
    (got,) = call.args[1].copy_outputs_to_cpu()
    np.testing.assert_array_equal(got, session.run(feed)["logits"])
