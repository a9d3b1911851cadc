"""The student's codes against those of the model that ships."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from deploy.code_agreement import (
    CodeAgreement,
    TensorCodes,
    compare_codes,
    read_codes,
    require_within_one_code,
)
from deploy.onnxrt import run_onnx
from edgeq.core.errors import BuildError, EdgeqBug
from edgeq.core.numerics import quantize


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
