from __future__ import annotations

import dataclasses
import hashlib
import json
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from fake_trt import Script, make_tensorrt
from onnx import numpy_helper, parser

import deploy.compare
from deploy.compare import CompareResult, compare_models
from deploy.onnxrt import Session, run_onnx
from edgeq.core.errors import CalibError, DeviceError, InputError, ModelError
from edgeq.core.numerics import sqnr_db
from edgeq.graph.rescaled import mark_rescaled


def _rename(model: onnx.ModelProto, old: str, new: str) -> None:
    for node in model.graph.node:
        for names in (node.input, node.output):
            names[:] = [new if name == old else name for name in names]
    for item in (*model.graph.input, *model.graph.output):
        item.name = new if item.name == old else item.name


def test_figures_are_those_of_the_outputs(teacher, qdq, samples):
    item = compare_models(teacher, qdq, samples).outputs[0]
    want = run_onnx(teacher, {"x": samples.samples})["logits"]
    got = run_onnx(qdq, {"x": samples.samples})["logits"]
    assert item.top1_match_ratio == (want.argmax(1) == got.argmax(1)).mean()
    assert item.max_abs == pytest.approx(np.abs(want - got).max(), rel=1e-5)
    assert item.sqnr_db == pytest.approx(sqnr_db(want, got), abs=1e-3)
    assert 0.9 < item.cosine < 1


def test_a_file_equals_itself(teacher, samples, tmp_path):
    onnx.save(teacher, tmp_path / "a.onnx")
    item = compare_models(tmp_path / "a.onnx", tmp_path / "a.onnx", samples).outputs[0]
    assert (item.top1_match_ratio, item.max_abs, item.sqnr_db) == (1.0, 0.0, 200.0)


def test_other_names_are_paired_by_position(teacher, qdq, samples):
    straight = compare_models(teacher, qdq, samples).outputs[0]
    _rename(qdq, "x", "image")
    _rename(qdq, "logits", "scores")
    item = compare_models(teacher, qdq, samples).outputs[0]
    assert (item.a, item.b) == ("logits", "scores")
    assert item.sqnr_db == straight.sqnr_db


def test_outputs_in_another_order_are_paired_by_name(teacher, samples):
    def with_outputs(*names: str) -> onnx.ModelProto:
        model = onnx.ModelProto()
        model.CopyFrom(teacher)
        del model.graph.output[:]
        model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
        return model

    result = compare_models(with_outputs("f", "logits"), with_outputs("logits", "f"), samples)
    assert [(item.a, item.b, item.max_abs) for item in result.outputs] == [
        ("f", "f", 0.0),
        ("logits", "logits", 0.0),
    ]


def test_another_number_of_outputs_is_an_input_error(teacher, qdq, samples):
    qdq.graph.output.append(onnx.ValueInfoProto(name="s"))
    with pytest.raises(InputError, match="cannot be paired: logits against logits, s"):
        compare_models(teacher, qdq, samples)


@pytest.mark.parametrize("kind", ["seq(tensor(float))", "tensor(string)"])
def test_an_output_that_is_no_tensor_of_numbers_is_refused(parse_graph, samples, kind):
    body, output = {
        "seq(tensor(float))": ("y = SequenceConstruct (x, x)", "seq(float[N,3,8,8]) y"),
        "tensor(string)": ("y = Cast<to=8> (x)", "string[N,3,8,8] y"),
    }[kind]
    model = parse_graph(f"g (float[N,3,8,8] x) => ({output}) {{ {body} }}")
    with pytest.raises(ModelError) as caught:
        compare_models(model, model, samples)
    assert caught.value.what == f"output 'y' has the type {kind}"


def test_a_file_that_onnx_runtime_runs_and_onnx_cannot_infer_is_compared(teacher, samples):
    before = len(compare_models(teacher, teacher, samples).tensors)
    teacher.graph.node[
        0
    ].domain = "ai.onnx"  # the default domain by its other name, which no import has
    assert len(compare_models(teacher, teacher, samples).tensors) == before


def test_a_sample_set_of_another_input_is_refused_where_it_is_unclear(teacher, samples):
    spare = onnx.helper.make_tensor_value_info("spare", onnx.TensorProto.FLOAT, [1])
    teacher.graph.input.append(spare)
    other = dataclasses.replace(samples, input_name="image")
    with pytest.raises(InputError, match="the samples are of image"):
        compare_models(teacher, teacher, other)


def test_an_empty_sample_set_is_refused(teacher, samples):
    with pytest.raises(CalibError, match="empty"):
        compare_models(teacher, teacher, dataclasses.replace(samples, samples=samples.samples[:0]))


def test_the_result_survives_json(teacher, qdq, samples):
    result = compare_models(teacher, qdq, samples)
    assert CompareResult.from_dict(result.to_dict()) == result


def _edit_weight(model: onnx.ModelProto, name: str, factor: float) -> None:
    for item in model.graph.initializer:
        if item.name == name:
            item.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(item) * factor, name))


def test_the_first_tensor_that_diverges_is_named_with_its_node(teacher, samples):
    broken = onnx.ModelProto()
    broken.CopyFrom(teacher)
    _edit_weight(broken, "w2", np.float32(1.5))
    result = compare_models(teacher, broken, samples)
    assert result.first is not None
    assert (result.first.b, result.first.op_type) == ("c2", "Conv")
    assert result.first.inputs == {"r1": 200.0}
    # The error is half of the signal: 20 log10(1 / 0.5).
    assert result.first.sqnr_db == pytest.approx(6.0206, abs=1e-3)
    assert [item.b for item in result.tensors] == ["c1", "r1", "c2", "s", "p", "f", "logits"]


def test_a_quantized_tensor_is_compared_as_its_readers_see_it(teacher, qdq, samples):
    result = compare_models(teacher, qdq, samples)
    pairs = [(item.a, item.b) for item in result.tensors]
    assert pairs[:4] == [("x", "x_dq"), ("c1", "c1"), ("r1", "r1_dq"), ("c2", "c2")]
    found = {item.b: item for item in result.tensors}
    want = run_onnx(teacher, {"x": samples.samples}, outputs=["r1"])["r1"]
    got = run_onnx(qdq, {"x": samples.samples}, outputs=["r1", "r1_dq"])
    item = found["r1_dq"]
    assert item.sqnr_db == pytest.approx(sqnr_db(want, got["r1_dq"]), abs=1e-3)
    assert item.unrounded_db == pytest.approx(sqnr_db(want, got["r1"]), abs=1e-3)
    assert item.unrounded_db > item.sqnr_db
    assert (item.op_type, item.inputs) == ("Relu", {"c1": found["c1"].sqnr_db})
    assert found["c2"].inputs == {"r1_dq": item.sqnr_db}
    assert found["x_dq"].unrounded_db is None


def test_a_relu_that_a_quantizer_does_is_no_divergence(samples):
    text = """
    <ir_version: 8, opset_import: ["" : 17]>
    g (float[N,3,8,8] x) => (float[N,3,8,8] y) <float s = {0.02}, uint8 z = {0}> { BODY }
    """
    kept = parser.parse_model(text.replace("BODY", "n = Neg (x) r = Relu (n) y = Neg (r)"))
    body = "r = Neg (x) q = QuantizeLinear (r, s, z) d = DequantizeLinear (q, s, z) y = Neg (d)"
    result = compare_models(kept, parser.parse_model(text.replace("BODY", body)), samples)
    assert result.first is None
    found = {item.b: item for item in result.tensors}
    assert set(found) == {"d", "y"}
    assert found["d"].sqnr_db > 30
    assert found["d"].unrounded_db < 5


def test_tensors_are_compared_in_pieces_that_fit_into_memory(teacher, qdq, samples, monkeypatch):
    whole = compare_models(teacher, qdq, samples)
    held = []
    real = deploy.compare.run_lockstep

    def spy(sides, feed, visit, **words):
        held.append([len(names) for names in words.get("extra", ((), ()))])
        real(sides, feed, visit, **words)

    monkeypatch.setattr("deploy.compare.run_lockstep", spy)
    monkeypatch.setattr("deploy.compare.PIECE_BYTES", 4000)
    pieces = compare_models(teacher, qdq, samples)
    assert len(held) > 3
    assert [item.b for item in pieces.tensors] == [item.b for item in whole.tensors]
    for one, other in zip(pieces.tensors, whole.tensors, strict=True):
        assert one.sqnr_db == pytest.approx(other.sqnr_db, abs=1e-3)


def test_a_fixed_batch_that_the_samples_do_not_fill_is_padded_and_not_counted(
    make_teacher, make_qdq, teacher, qdq, samples
):
    free = compare_models(teacher, qdq, samples).outputs[0]
    fixed = compare_models(make_teacher("8"), make_qdq("8"), samples).outputs[0]
    assert fixed.top1_match_ratio == free.top1_match_ratio
    assert fixed.sqnr_db == pytest.approx(free.sqnr_db, abs=1e-3)


def test_two_fixed_batches_are_refused(make_teacher, make_qdq, samples):
    with pytest.raises(InputError, match="batches of 2 and 4"):
        compare_models(make_teacher("2"), make_qdq("4"), samples)


def test_an_overflow_is_where_two_models_part(teacher, samples):
    broken = onnx.ModelProto()
    broken.CopyFrom(teacher)
    _edit_weight(broken, "w2", np.float32(np.inf))
    result = compare_models(teacher, broken, samples)
    assert result.first is not None
    assert (result.first.b, result.first.sqnr_db) == ("c2", -200.0)
    assert result.outputs[0].non_finite == 0
    itself = compare_models(broken, broken, samples)
    assert itself.first is None
    assert itself.outputs[0].non_finite > 0


def test_a_file_of_quantize_static_is_matched_through_its_pairs(teacher, samples, tmp_path):
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.feeds = iter([{"x": samples.samples}])

        def get_next(self):
            return next(self.feeds, None)

    onnx.save(teacher, tmp_path / "a.onnx")
    quantize_static(
        tmp_path / "a.onnx", tmp_path / "b.onnx", Reader(), quant_format=QuantFormat.QDQ
    )
    result = compare_models(tmp_path / "a.onnx", tmp_path / "b.onnx", samples)
    assert {"x", "r1", "s", "logits"} <= {item.a for item in result.tensors}
    through = [item for item in result.tensors if item.unrounded_db is not None]
    assert len(through) >= 4
    assert all(item.sqnr_db > 20 for item in through)


def test_an_engine_needs_a_gpu_before_tensorrt_is_touched(teacher, samples, tmp_path, monkeypatch):
    def no_gpu():
        raise DeviceError("no NVIDIA driver", why="", mend="")

    monkeypatch.setattr("deploy.lockstep.probe_driver", no_gpu)
    (tmp_path / "engine.plan").write_bytes(b"ftrt" + bytes(40))
    with pytest.raises(DeviceError, match="no NVIDIA driver"):
        compare_models(teacher, tmp_path / "engine.plan", samples)


def test_an_engine_is_run_by_polygraphys_tensorrt_runner(
    teacher, qdq, samples, tmp_path, monkeypatch
):
    """Plays TensorRT with ONNX Runtime: what is tested is who asks whom for what."""
    import polygraphy.backend.trt
    from polygraphy.backend.onnxrt import OnnxrtRunner

    class Engine:
        num_io_tensors = 2

        def get_tensor_name(self, index):
            return ("x", "logits")[index]

        def get_tensor_profile_shape(self, name, index):
            assert (name, index) == ("x", 0)
            return [(size, 3, 16, 16) for size in (2, 3, 8)]

    fed = []

    class Runner(OnnxrtRunner):
        engine = Engine()

        def infer_impl(self, feed_dict):
            fed.append(len(feed_dict["x"]))
            return super().infer_impl(feed_dict)

    plan = b"ftrt" + bytes(40)
    loaded, runtimes = [], []
    trt = make_tensorrt("10.3", Script())
    monkeypatch.setattr("deploy.lockstep.require", lambda *words, **more: trt)
    monkeypatch.setattr("deploy.lockstep.probe_driver", lambda: None)

    def load(engine, runtime):
        loaded.append(engine)
        runtimes.append(runtime())

    monkeypatch.setattr(polygraphy.backend.trt, "EngineFromBytes", load)
    monkeypatch.setattr(
        polygraphy.backend.trt, "TrtRunner", lambda engine: Runner(Session(qdq).runtime)
    )
    (tmp_path / "engine.plan").write_bytes(plan)
    record = {"engine_sha256": hashlib.sha256(plan).hexdigest(), "request": {"dla_core": 1}}
    (tmp_path / "engine.plan.json").write_text(json.dumps(record))
    result = compare_models(teacher, tmp_path / "engine.plan", samples)
    assert set(loaded) == {plan}
    assert {vars(runtime)["DLA_core"] for runtime in runtimes} == {1}
    assert set(fed) == {3}  # what the profile is tuned for; 1 is below its least
    straight = compare_models(teacher, qdq, samples).outputs[0]
    assert result.outputs[0].sqnr_db == pytest.approx(straight.sqnr_db, abs=1e-3)
    assert (result.tensors, result.tensor_samples) == ((), 0)


def test_a_fault_of_the_engine_is_an_error_of_the_device(teacher, samples, tmp_path, monkeypatch):
    import polygraphy.backend.trt
    from polygraphy.exception import PolygraphyException

    def fail():
        raise PolygraphyException("Failed to load engine")

    monkeypatch.setattr("deploy.lockstep.require", lambda *words, **more: None)
    monkeypatch.setattr("deploy.lockstep.probe_driver", lambda: None)
    logger = SimpleNamespace(errors=["it is of another version"])
    monkeypatch.setattr("deploy.lockstep.make_logger", lambda trt: logger)
    monkeypatch.setattr(polygraphy.backend.trt, "EngineFromBytes", lambda plan, runtime: fail)
    (tmp_path / "engine.plan").write_bytes(b"ftrt")
    with pytest.raises(DeviceError, match="Failed to load engine; it is of another version"):
        compare_models(teacher, tmp_path / "engine.plan", samples)


def test_a_file_without_a_batch_axis_takes_the_samples_one_by_one(teacher, samples):
    text = """
    <ir_version: 8, opset_import: ["" : 17]>
    g (float[3,8,8] x) => (float[3] y) { r = Relu (x) y = ReduceMax <axes = [1, 2], keepdims = 0> (r) }
    """
    model = parser.parse_model(text)
    half = parser.parse_model(text.replace("Relu (x)", "Tanh (x)"))
    result = compare_models(model, half, samples)
    want = np.maximum(samples.samples, 0).max((2, 3))
    got = np.tanh(samples.samples).max((2, 3))
    assert result.outputs[0].sqnr_db == pytest.approx(sqnr_db(want, got), abs=1e-3)
    assert result.outputs[0].top1_match_ratio == (want.argmax(1) == got.argmax(1)).mean()
    assert result.first is not None
    assert result.first.op_type == "Tanh"


def test_tensors_whose_channels_were_multiplied_are_left_out_and_named(teacher, qdq, samples):
    plain = compare_models(teacher, qdq, samples)
    mark_rescaled(qdq, {"c1": np.ones(4, np.float32), "r1": np.ones(4, np.float32)})
    found = compare_models(teacher, qdq, samples)
    gone = {item.b for item in plain.tensors} - {item.b for item in found.tensors}
    assert gone
    assert gone <= set(found.rescaled)
    assert {"c1", "r1"} <= set(found.rescaled)
    assert "s" in {item.b for item in found.tensors}
    assert found.outputs == plain.outputs
