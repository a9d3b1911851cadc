from __future__ import annotations

import dataclasses

import numpy as np
import onnx
import pytest

from deploy.compare import CompareResult, compare_models
from deploy.onnxrt import run_onnx
from edgeq.core.errors import CalibError, InputError
from edgeq.core.numerics import sqnr_db


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
