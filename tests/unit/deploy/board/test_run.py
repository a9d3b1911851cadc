"""A whole run of a bundle, on stand-ins that answer what ONNX Runtime answers, or something else."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from fake_trt import RELEASES
from fake_trt.cuda import FakeCuda

from deploy.board.run import RunOptions
from deploy.board.timing import trtexec_defaults
from deploy.dla import dla_files
from deploy.onnxrt import Session
from deploy.trtexec import BatchRange
from edgeq.core.errors import BuildError, DeviceError, InputError, TargetError
from edgeq.core.files import digest_file


def report_of(folder):
    return json.loads((folder / "device_report.json").read_text())


@pytest.mark.parametrize("release", list(RELEASES))
def test_an_engine_that_answers_as_the_quantized_model_passes(make_bundle, run, release):
    folder = make_bundle(release)
    report = run(folder, release)
    assert report["passed"]
    assert report["verdict"] == run.said[-1] == "PASS"
    assert report_of(folder) == json.loads(json.dumps(report))


def test_the_report_holds_what_was_built_compared_and_timed(make_bundle, run):
    report = run(make_bundle())
    assert report["device"]["compute_capability"] == "8.7"
    assert report["tensorrt_version"] == "10.3.0"
    assert report["engine"]["is_reused"] is False
    assert report["engine"]["builder_flags"] == ["INT8", "FP16"]
    (output,) = report["comparison"]
    assert output["max_difference"] <= output["tolerance"]
    assert report["timing"]["gpu_compute_ms"]["median"] == 2.0
    assert report["timing"]["settings"]["has_graph"] is True
    assert report["timing"]["shapes"] == {"x": [1, 3, 8, 8]}
    assert report["provenance"] == {"bits": "w8a4"}


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda y: y + 10, id="offset"),
        pytest.param(lambda y: -y, id="sign"),
        pytest.param(lambda y: np.zeros_like(y), id="zeros"),
        pytest.param(lambda y: np.full_like(y, np.nan), id="nan"),
        pytest.param(lambda y: np.roll(y, 1, axis=1), id="classes-mixed-up"),
    ],
)
def test_wrong_outputs_fail(make_bundle, run, script, spoil):
    right = script.compute
    script.compute = lambda feed: {name: spoil(y) for name, y in right(feed).items()}
    report = run(make_bundle())
    assert not report["passed"]
    assert report["verdict"].startswith("FAIL: the engine's outputs are off: logits")
    assert any(line.startswith("FAIL output 'logits'") for line in run.said)


def test_one_wrong_call_among_right_ones_fails(make_bundle, run, script):
    right, calls = script.compute, []

    def compute(feed):
        calls.append(1)
        return {name: y + (len(calls) == 3) * 9 for name, y in right(feed).items()}

    script.compute = compute
    report = run(make_bundle())
    assert not report["passed"]
    assert report["comparison"][0]["worst"]["call"] == 2


@pytest.mark.parametrize("has_scores", [True, False])
def test_classes_are_told_and_not_judged(make_bundle, run, script, teacher, qdq, has_scores):
    for model in (teacher, qdq):
        model.graph.node.append(onnx.helper.make_node("ArgMax", ["logits"], ["best"], axis=1))
        model.graph.output.append(onnx.helper.make_tensor_value_info("best", 7, ["N", 1]))
        if not has_scores:
            del model.graph.output[0]
    script.compute = right = Session(qdq).run
    folder = make_bundle(teacher_model=teacher, qdq_model=qdq)
    assert json.loads((folder / "bundle.json").read_text())["tolerances"]["best"] is None
    assert "best:inf" in (folder / "README.txt").read_text()
    agreement = run(folder)["comparison"][0]["equal"]

    calls = []

    def compute(feed):
        calls.append(1)
        found = right(feed)
        return {**found, "best": (found["best"] + (len(calls) == 1)) % 5}

    script.compute = compute
    report = run(folder)
    assert report["passed"]
    nothing = "PASS: the engine runs; none of its outputs is a float, so none was judged"
    assert report["verdict"] == ("PASS" if has_scores else nothing)
    assert report["comparison"][0]["equal"] == pytest.approx(agreement - 0.25)  # one of four
    assert (
        f"note output 'best': {100 * agreement - 25:.1f} % of the values equal, not judged"
        in run.said
    )


def test_a_run_that_was_cut_off_uses_the_engine_again(make_bundle, run, script):
    folder = make_bundle()
    run(folder)
    script.made.clear()
    report = run(folder)
    assert report["engine"]["is_reused"] is True
    assert "Builder" not in script.made


@pytest.mark.parametrize("damage", ["engine", "record", "device", "request"])
def test_an_engine_that_is_not_the_right_one_is_built_again(make_bundle, run, damage):
    folder = make_bundle()
    run(folder)
    record = json.loads((folder / "model.plan.json").read_text())
    if damage == "engine":
        (folder / "model.plan").write_bytes(b"ftrt cut off")
    elif damage == "record":
        (folder / "model.plan.json").unlink()
    else:
        record[damage] = {}
        (folder / "model.plan.json").write_text(json.dumps(record))
    assert run(folder)["engine"]["is_reused"] is False


def test_rebuild_builds_again(make_bundle, run):
    folder = make_bundle()
    run(folder)
    options = RunOptions(timing=trtexec_defaults(11)._replace(duration_s=0, warm_up_ms=0))
    assert run(folder, options=options._replace(is_rebuild=True))["engine"]["is_reused"] is False


@pytest.fixture
def make_dla(make_bundle, teacher, make_card, input_spec):
    def make(**changes):
        card = make_card("10.3", dla_cores=2)
        scales = dict.fromkeys(
            ("x", *(out for node in teacher.graph.node for out in node.output)), 0.01
        )
        files = dla_files(teacher, scales, card=card, inputs=[input_spec])
        return make_bundle(card=card, extra=files, **changes)

    return make


def test_a_bundle_for_dla_builds_its_own_model_with_the_cache(make_dla, run, script):
    folder = make_dla()
    report = run(folder)
    assert report["passed"]
    assert report["dla_core"] == 0
    assert report["engine"]["model_sha256"] == digest_file(folder / "model.dla.onnx")
    assert report["engine"]["builder_flags"] == ["INT8", "FP16", "GPU_FALLBACK"]
    assert script.asked["DLA_core"] == 0
    assert "DLA core 0, layers that it cannot take on the GPU" in run.said


def test_an_engine_of_one_device_is_not_used_for_another(make_dla, run, script):
    folder = make_dla()
    run(folder)
    options = RunOptions(timing=trtexec_defaults(11)._replace(duration_s=0, warm_up_ms=0))
    for device, core in (("dla1", 1), ("gpu", None)):
        report = run(folder, options=options._replace(device=device))
        assert report["dla_core"] == core
        assert report["engine"]["is_reused"] is False
        assert script.asked["cores"][-2:] == [core, core]  # inspected and run where it is built for
    assert run(folder, options=options._replace(device="gpu"))["engine"]["is_reused"] is True


def test_an_engine_of_another_calibration_cache_is_built_again(make_dla, run):
    folder = make_dla()
    run(folder)
    assert run(folder)["engine"]["is_reused"] is True
    cache = folder / "calibration.cache"
    cache.write_text(cache.read_text().replace("x: ", "x: 1"))
    assert run(folder)["engine"]["is_reused"] is False


def test_dla_is_built_for_one_shape(make_dla, run):
    folder = make_dla(batch=BatchRange(min=1, opt=4, max=8))
    assert run(folder)["timing"]["shapes"] == {"x": [1, 3, 8, 8]}


def test_a_bundle_for_the_gpu_has_nothing_for_dla(make_bundle, run):
    options = RunOptions(device="dla0")
    with pytest.raises(InputError, match="with a bundle for the GPU"):
        run(make_bundle(), options=options)


def test_an_earlier_report_does_not_pass_for_that_of_a_run_that_died(make_bundle, run, monkeypatch):
    folder = make_bundle()
    run(folder)
    monkeypatch.setattr("deploy.board.run.read_facts", lambda: report_of(folder))
    report = run(folder)
    assert report["facts"]["passed"] is False
    assert "verdict" not in report["facts"]


def test_a_dynamic_engine_is_timed_at_the_shape_it_is_tuned_for(make_bundle, run):
    folder = make_bundle(batch=BatchRange(min=1, opt=4, max=8))
    assert run(folder)["timing"]["shapes"] == {"x": [4, 3, 8, 8]}


def test_a_layer_that_misses_int8_is_a_warning(make_bundle, run, script, qdq):
    folder = make_bundle()
    bundle = json.loads((folder / "bundle.json").read_text())
    bundle["engine"]["meant"] = [["node_of_c1", "Conv"]]
    (folder / "bundle.json").write_text(json.dumps(bundle))
    script.layers = [("c1", "CaskConvolution", ["node_of_c1"], "Half")]
    report = run(folder)
    assert report["passed"]
    assert len(report["engine"]["int8"]["missed"]) == 1
    assert any("meant to run in INT8 and does not" in line for line in run.said)


def test_without_a_gpu_no_tensorrt_object_is_made_and_the_report_says_why(make_bundle, run, script):
    script.cuda = FakeCuda(devices=0)
    script.has_driver = False
    folder = make_bundle()
    with pytest.raises(DeviceError, match="no device"):
        run(folder)
    report = report_of(folder)
    assert report["passed"] is False
    assert report["error"]["kind"] == "DeviceError"
    assert script.made == []


def test_another_tensorrt_is_refused(make_bundle, run, script):
    with pytest.raises(TargetError, match=r"TensorRT is 11\.4"):
        run(make_bundle("10.3"), "11.4")
    assert script.made == []


def test_a_failed_build_leaves_no_engine(make_bundle, run, script):
    script.builds = False
    folder = make_bundle()
    with pytest.raises(BuildError, match="built no engine"):
        run(folder)
    assert not (folder / "model.plan").exists()


@pytest.mark.parametrize(
    ("spoil", "error", "words"),
    [
        ({"loads": False}, BuildError, "cannot load"),
        ({"executes": False}, BuildError, "cannot be run"),
    ],
)
def test_an_engine_that_does_not_run_is_told(make_bundle, run, script, spoil, error, words):
    for key, value in spoil.items():
        setattr(script, key, value)
    with pytest.raises(error, match=words):
        run(make_bundle())


def test_everything_is_given_back_to_the_gpu(make_bundle, run, script):
    run(make_bundle())
    assert script.cuda.live == {}


@pytest.mark.parametrize("text", ["", "[]", '{"target": "orin"}'])
def test_a_record_that_is_none_is_refused(make_bundle, run, text):
    folder = make_bundle()
    (folder / "bundle.json").write_text(text)
    with pytest.raises(InputError, match=r"bundle\.json cannot be used"):
        run(folder)
