from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

from deploy.onnxrt import Session, find_logits, iterate_batches, predict_classes, run_onnx
from edgeq.core.errors import InputError, ModelError
from edgeq.core.numerics import quantize


def test_outputs_equal_those_of_the_onnx_reference(teacher, samples):
    want = ReferenceEvaluator(teacher).run(None, {"x": samples.samples})[0]
    got = run_onnx(teacher, {"x": samples.samples})["logits"]
    np.testing.assert_allclose(got, want, atol=1e-5)


@pytest.mark.parametrize("batch", ["1", "3", "20"])
def test_a_fixed_batch_gives_what_a_dynamic_batch_gives(make_teacher, samples, batch):
    want = run_onnx(make_teacher("N"), {"x": samples.samples})["logits"]
    got = run_onnx(make_teacher(batch), {"x": samples.samples})["logits"]
    np.testing.assert_allclose(got, want, atol=1e-6)


def test_intermediate_tensors_are_returned_and_the_model_is_not_changed(teacher, samples):
    before = teacher.SerializeToString(deterministic=True)
    got = run_onnx(teacher, {"x": samples.samples}, outputs=["r1", "s"])
    assert list(got) == ["logits", "r1", "s"]
    assert got["r1"].shape == (20, 4, 8, 8)
    assert teacher.SerializeToString(deterministic=True) == before


def test_the_reference_run_quantizes_as_core_numerics(qdq, samples):
    got = run_onnx(qdq, {"x": samples.samples}, outputs=["x_q"])["x_q"]
    want = quantize(samples.samples, np.float32(0.03), low=-128, high=127)
    np.testing.assert_array_equal(got, want)


def test_intermediate_tensors_of_a_file_are_returned(teacher, samples, tmp_path):
    onnx.save(teacher, tmp_path / "m.onnx")
    got = run_onnx(tmp_path / "m.onnx", {"x": samples.samples}, outputs=["r1"])
    assert got["r1"].shape == (20, 4, 8, 8)


def test_floats_for_an_integer_input_are_rounded():
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> g (uint8[N] x) => (uint8[N] y) { y = Identity (x) }'
    )
    got = run_onnx(model, {"x": np.array([254.9999, 0.0001], np.float32)})["y"]
    np.testing.assert_array_equal(got, [255, 0])


def test_a_missing_input_is_named(teacher):
    with pytest.raises(InputError, match="no values for the input x"):
        run_onnx(teacher, {"y": np.zeros((1, 3, 8, 8), np.float32)})


def test_a_missing_file_is_an_input_error(tmp_path):
    with pytest.raises(InputError, match="there is no such model"):
        Session(tmp_path / "gone.onnx")


@pytest.mark.parametrize("outputs", [(), ("r1",)])
def test_a_file_that_is_no_model_is_a_model_error(tmp_path, outputs):
    (tmp_path / "bad.onnx").write_bytes(b"no model at all")
    with pytest.raises(ModelError, match="no ONNX model, but a text file"):
        Session(tmp_path / "bad.onnx", outputs=outputs)


def test_what_the_optimiser_makes_of_fp16_scales_is_told(parse_graph):
    model = parse_graph(
        """g (float16[N,2] x) => (float16[N,4] y) <float16 s, int8 z>
        { q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z) r = Relu(x) m = QuantizeLinear(r, s, z)
          e = DequantizeLinear(m, s, z) c = Concat<axis=1>(d, e) p = QuantizeLinear(c, s, z)
          y = DequantizeLinear(p, s, z) }""",
        opset=19,
        s=np.array(0.125, np.float16),
        z=np.array(0, np.int8),
    )
    x = np.ones((1, 2), np.float16)
    assert Session(model, as_written=True).run({"x": x})["y"].tolist() == [[1, 1, 1, 1]]
    with pytest.raises(ModelError, match="takes no FP16 scales"):
        Session(model, optimise=True, as_written=True)


@pytest.mark.parametrize("name", ["model.json", "model.pbtxt"])
def test_a_suffix_of_another_format_changes_nothing(teacher, samples, tmp_path, name):
    (tmp_path / name).write_bytes(teacher.SerializeToString())
    got = run_onnx(tmp_path / name, {"x": samples.samples}, outputs=["r1"])
    np.testing.assert_array_equal(
        got["r1"], run_onnx(teacher, {"x": samples.samples}, outputs=["r1"])["r1"]
    )


@pytest.mark.parametrize("optimise", [False, True])
@pytest.mark.parametrize(
    ("change", "told"),
    [
        (Path.unlink, "external data files that are missing"),
        (lambda file: file.write_bytes(b"short"), "external data that does not fit"),
    ],
    ids=["missing", "cut short"],
)
def test_what_is_wrong_with_data_beside_the_file_is_a_model_error(
    teacher, tmp_path, change, told, optimise
):
    path = tmp_path / "m.onnx"
    onnx.save(teacher, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    change(tmp_path / "weights.bin")
    with pytest.raises(ModelError, match=told):
        Session(path, optimise=optimise)


def test_a_folder_in_place_of_a_model_is_named_as_one(tmp_path):
    with pytest.raises(InputError, match="the model is a folder"):
        Session(tmp_path)


def test_a_wrong_shape_is_a_model_error(teacher):
    with pytest.raises(ModelError, match="cannot run the model"):
        run_onnx(teacher, {"x": np.zeros((1, 2, 8, 8), np.float32)})


def test_an_input_of_strings_is_refused():
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> g (string[N] x) => (string[N] y) { y = Identity (x) }'
    )
    with pytest.raises(ModelError, match=r"input 'x' has the type tensor\(string\)"):
        Session(model)


@pytest.mark.parametrize(
    ("shape", "dtype", "found"),
    [
        ((4, 10), "float32", True),
        ((4, 10, 1, 1), "float32", True),
        ((4, 10, 2, 2), "float32", False),
        ((4, 1), "float32", False),
        ((4,), "float32", False),
        ((4, 10), "int64", False),
    ],
)
def test_logits_are_floats_with_one_row_a_sample(shape, dtype, found):
    name = find_logits({"features": np.zeros((4,), "float32"), "y": np.zeros(shape, dtype)})
    assert name == ("y" if found else None)


def test_classes_of_pooled_logits_are_predicted():
    logits = np.zeros((2, 3, 1, 1), np.float32)
    logits[0, 2], logits[1, 1] = 1, 1
    np.testing.assert_array_equal(predict_classes(logits), [2, 1])


def test_batches_cover_all_samples_within_the_budget():
    small = [range(130)[pick] for pick in iterate_batches(130, bytes_per_sample=1 << 22)]
    assert max(map(len, small)) == 16
    assert [index for piece in small for index in piece] == list(range(130))
    sizes = [pick.stop - pick.start for pick in iterate_batches(130, bytes_per_sample=4)]
    assert sizes == [64, 64, 2]
    assert next(iterate_batches(130, bytes_per_sample=1 << 40)) == slice(0, 1)
