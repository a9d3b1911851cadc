from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from deploy.onnxrt import run_onnx
from deploy.verify import (
    AgreementResult,
    CodeAgreement,
    TensorCodes,
    compare_codes,
    read_codes,
    require_within_one_code,
    verify_agreement,
)
from edgeq.core.errors import BuildError, CalibError, EdgeqBug, NumericsError
from edgeq.core.numerics import quantize, sqnr_db
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


def test_a_sample_of_nan_is_an_error_and_not_a_figure(teacher, qdq, samples, plan):
    samples.samples[4] = np.nan
    with pytest.raises(NumericsError, match="NaN"):
        verify_agreement(teacher, qdq, samples, plan=plan)


@pytest.fixture
def codes(qdq, samples):
    tensors = run_onnx(qdq, {"x": samples.samples}, outputs=["r1"])
    return {
        "x": quantize(samples.samples, np.float32(0.03), low=-128, high=127),
        "r1": quantize(tensors["r1"], np.float32(0.25), low=0, high=15),
    }


def test_equal_codes_agree_also_behind_the_clip_of_a_grid(qdq, plan, samples, codes):
    agreement = compare_codes(codes, read_codes(qdq, plan, samples.feed()))
    assert [(item.tensor, item.differing) for item in agreement.tensors] == [("x", 0), ("r1", 0)]
    assert agreement.largest == 0
    assert codes["r1"].max() == 15  # the clip was at work


def test_differing_codes_are_counted(qdq, plan, samples, codes):
    codes["r1"].flat[:3] += np.array([1, 2, 1], np.int8)
    agreement = compare_codes(codes, read_codes(qdq, plan, samples.feed()))
    want = TensorCodes(tensor="r1", count=codes["r1"].size, differing=3, largest=2)
    assert agreement.tensors[1] == want
    assert agreement.largest == 2


def test_a_difference_across_the_whole_range_does_not_overflow(qdq, plan, samples, codes):
    codes["x"][codes["x"] < 0] = 127
    agreement = compare_codes({"x": codes["x"]}, read_codes(qdq, plan, samples.feed()))
    assert agreement.largest > 128


def test_a_relu6_of_the_user_is_not_taken_for_the_clip_of_a_grid(qdq, plan, samples):
    decisions = (*plan.decisions, dataclasses.replace(plan.decisions[1], tensor="r1_clip"))
    with pytest.raises(EdgeqBug, match="'r1' is quantized in the plan, but has no QuantizeLinear"):
        read_codes(qdq, dataclasses.replace(plan, decisions=decisions), samples.feed())


def test_codes_of_a_tensor_that_is_not_quantized_are_a_bug(qdq, plan, samples, codes):
    with pytest.raises(EdgeqBug, match="'s' has codes"):
        compare_codes({"s": codes["r1"]}, read_codes(qdq, plan, samples.feed()))


def test_codes_of_another_shape_are_a_bug(qdq, plan, samples, codes):
    with pytest.raises(EdgeqBug, match="have the shape"):
        compare_codes({"x": codes["x"][:, :1]}, read_codes(qdq, plan, samples.feed()))


def test_one_code_is_allowed_and_two_are_not():
    near = TensorCodes(tensor="a", count=10, differing=3, largest=1)
    require_within_one_code(CodeAgreement(tensors=(near,)))
    far = dataclasses.replace(near, tensor="b", largest=2)
    with pytest.raises(BuildError, match=r"1 tensors: 'b' \(by 2, 3 of 10 differ\)"):
        require_within_one_code(CodeAgreement(tensors=(near, far)))
