from __future__ import annotations

import dataclasses

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from deploy.differences import SQNR_LIMIT_DB
from deploy.onnxrt import run_onnx
from deploy.verify import (
    AgreementResult,
    verify_agreement,
)
from edgeq.core.errors import CalibError, NumericsError
from edgeq.core.numerics import sqnr_db
from edgeq.core.samples import Part


class Listener:
    def __init__(self):
        self.count, self.figures, self.summary, self.total = 0, {}, "", 0

    def start(self, stage, total, unit):
        self.total = total

    def advance(self, n=1, **figures):
        self.count, self.figures = self.count + n, figures

    def finish(self, summary):
        self.summary = summary


def test_agreement_has_the_figures_of_the_whole_set(teacher, qdq, samples, plan, monkeypatch):
    monkeypatch.setattr("deploy.onnxrt.MAX_BATCH", 6)  # several batches, the last one smaller
    result = verify_agreement(teacher, qdq, samples, plan=plan)
    names = ["c1", "c2", "s"]
    want = run_onnx(teacher, {"x": samples.samples}, outputs=names)
    got = run_onnx(qdq, {"x": samples.samples}, outputs=names)
    same = want["logits"].argmax(1) == got["logits"].argmax(1)
    assert result.top1_match_ratio == same.mean()
    assert result.samples == 20
    for item in (*result.outputs, *result.layers):
        assert item.sqnr_db == pytest.approx(sqnr_db(want[item.tensor], got[item.tensor]), abs=1e-3)


def test_kinds_of_samples_are_told_apart_in_their_order(teacher, qdq, samples, plan, monkeypatch):
    monkeypatch.setattr(
        "deploy.onnxrt.MAX_BATCH", 6
    )  # a batch holds the end of one kind and the start of the next
    parts = (Part("optimised samples", 8), Part("dead leaves", 12))
    listener = Listener()
    result = verify_agreement(
        *(teacher, qdq, dataclasses.replace(samples, parts=parts)), plan=plan, progress=listener
    )
    want, got = (
        run_onnx(model, {"x": samples.samples}, outputs=["s"])["logits"] for model in (teacher, qdq)
    )
    same = want.argmax(1) == got.argmax(1)
    found = [(item.kind, item.samples, item.top1_match_ratio) for item in result.parts]
    assert found == [
        ("optimised samples", 8, same[:8].mean()),
        ("dead leaves", 12, same[8:].mean()),
    ]
    assert result.top1_match_ratio == same.mean()
    assert f"top-1 match {100 * same[:8].mean():.2f} % of optimised samples" in listener.summary
    assert AgreementResult.from_dict(result.to_dict()) == result


def test_layers_are_the_weighted_operators_and_additions_in_graph_order(
    teacher, qdq, samples, plan
):
    result = verify_agreement(teacher, qdq, samples, plan=plan)
    found = [(item.tensor, item.op_type) for item in result.layers]
    assert found == [("c1", "Conv"), ("c2", "Conv"), ("s", "Add"), ("logits", "Gemm")]
    assert [item.tensor for item in result.outputs] == ["logits"]


def test_a_tensor_whose_channels_were_multiplied_is_compared_at_its_old_sizes(
    teacher, qdq, samples, plan
):
    factors = {"c1": np.float32([1, 2, 4, 0.5])}
    plain = verify_agreement(teacher, qdq, samples, plan=plan)
    for name in ("w1", "b1"):
        weight = next(item for item in qdq.graph.initializer if item.name == name)
        array = numpy_helper.to_array(weight)
        scaled = array * factors["c1"].reshape(-1, *[1] * (array.ndim - 1))
        weight.CopyFrom(numpy_helper.from_array(scaled, name))
    found = verify_agreement(teacher, qdq, samples, plan=plan, channel_factors=factors)
    assert found.layers[0].tensor == "c1"
    assert found.layers[0].sqnr_db == pytest.approx(plain.layers[0].sqnr_db, abs=1e-3)


def test_a_tensor_that_only_one_model_has_is_no_layer(teacher, qdq, samples, plan):
    for node in qdq.graph.node:  # c2 has another name in the Q/DQ model
        for names in (node.input, node.output):
            names[:] = ["other" if name == "c2" else name for name in names]
    result = verify_agreement(teacher, qdq, samples, plan=plan)
    assert [item.tensor for item in result.layers] == ["c1", "s", "logits"]


def test_a_model_agrees_wholly_with_itself(teacher, samples, plan):
    result = verify_agreement(teacher, teacher, samples, plan=plan)
    assert result.top1_match_ratio == 1.0
    assert {item.sqnr_db for item in result.layers} == {200.0}


def test_fixed_and_dynamic_batch_agree_alike(make_teacher, make_qdq, samples, plan):
    fixed = verify_agreement(make_teacher("1"), make_qdq("1"), samples, plan=plan)
    free = verify_agreement(make_teacher("N"), make_qdq("N"), samples, plan=plan)
    assert fixed.top1_match_ratio == free.top1_match_ratio
    assert fixed.outputs[0].sqnr_db == pytest.approx(free.outputs[0].sqnr_db, abs=0.1)


def test_no_top1_is_claimed_where_no_output_is_logits(teacher, qdq, samples, plan):
    for model in (teacher, qdq):
        model.graph.output[0].name = "s"
        model.graph.output[0].type.tensor_type.ClearField("shape")
    result = verify_agreement(teacher, qdq, samples, plan=plan)
    assert result.top1_match_ratio is None
    parts = (Part("optimised samples", 8), Part("dead leaves", 12))
    told = verify_agreement(teacher, qdq, dataclasses.replace(samples, parts=parts), plan=plan)
    assert told.parts == ()


def test_the_result_survives_json(teacher, qdq, samples, plan):
    result = verify_agreement(teacher, qdq, samples, plan=plan)
    assert AgreementResult.from_dict(result.to_dict()) == result


def test_progress_counts_every_sample(teacher, qdq, samples, plan):
    listener = Listener()
    verify_agreement(teacher, qdq, samples, plan=plan, progress=listener)
    assert (listener.total, listener.count) == (20, 20)
    assert "top1_match_pct" in listener.figures
    assert "top-1 match" in listener.summary


def test_an_empty_sample_set_is_refused(teacher, qdq, samples, plan):
    empty = dataclasses.replace(samples, samples=samples.samples[:0])
    with pytest.raises(CalibError, match="empty"):
        verify_agreement(teacher, qdq, empty, plan=plan)


def test_scores_behind_a_mask_of_minus_infinity_agree(teacher, qdq, samples, plan):
    masked = []
    for model in (teacher, qdq):
        masked.append(onnx.ModelProto.FromString(model.SerializeToString()))
        graph = masked[-1].graph
        (classes,) = (dim.dim_value for dim in graph.output[0].type.tensor_type.shape.dim[1:])
        mask = np.where(np.arange(classes) == 1, -np.inf, 0).astype(np.float32)
        graph.initializer.append(numpy_helper.from_array(mask, "mask"))
        graph.node.append(helper.make_node("Add", ["logits", "mask"], ["masked"]))
        graph.node.append(helper.make_node("Softmax", ["masked"], ["shares"]))
        graph.output[0].name = "shares"
    result = verify_agreement(*masked, samples, plan=plan)
    (scores,) = (item for item in result.layers if item.tensor == "masked")
    assert 0 < scores.sqnr_db < SQNR_LIMIT_DB


def test_a_sample_of_nan_is_an_error_and_not_a_figure(teacher, qdq, samples, plan):
    samples.samples[4] = np.nan
    with pytest.raises(NumericsError, match="NaN"):
        verify_agreement(teacher, qdq, samples, plan=plan)
