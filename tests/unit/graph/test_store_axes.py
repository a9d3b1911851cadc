"""Axes that the rank decides are written down; those that the batch or the data decide stay."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

from edgeq.graph.store_axes import store_axes

CONSTANTS = "int64[1] zero = {0}, int64[1] one = {1}, int64 two = {2}, int64 step = {1}"
RANK = "s = Shape (x) r = Size (s)"

KNOWN = {
    "last": (f"{RANK} u = Unsqueeze (r, zero) a = Sub (u, one) y = ReduceMax (x, a)", [3]),
    "range": (f"{RANK} a = Range (two, r, step) y = ReduceMean (x, a)", [2, 3]),
    "constants": ("a = Add (one, one) y = ReduceSum (x, a)", [2]),
    "size-of-an-axis": (
        "s = Shape<start=1,end=2> (x) a = Sub (s, one) y = ReduceSum (x, a)",
        [2],
    ),
}
UNKNOWN = {
    "batch": "s = Shape<start=0,end=1> (x) a = Sub (s, one) y = ReduceSum (x, a)",
    "data": "m = ReduceMax<keepdims=0> (x) c = Cast<to=7> (m) a = Unsqueeze (c, zero) y = ReduceSum (x, a)",
}


def make(body: str) -> onnx.ModelProto:
    text = f"g (float[1,3,4,5] x) => (float[?,?,?,?] y) <{CONSTANTS}> {{ {body} }}"
    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 18]> {text}')
    onnx.checker.check_model(model)
    return model


def store(model: onnx.ModelProto) -> onnx.ModelProto:
    return store_axes(onnx.shape_inference.infer_shapes(model, data_prop=True), model)


def run(model: onnx.ModelProto) -> np.ndarray:
    x = np.random.default_rng(0).normal(size=(1, 3, 4, 5)).astype(np.float32)
    return onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": x})[0]


@pytest.mark.parametrize("case", KNOWN)
def test_axes_that_shapes_decide_become_a_constant_and_the_arithmetic_goes(case):
    body, axes = KNOWN[case]
    model = make(body)
    result = store(model)
    onnx.checker.check_model(result, full_check=True)
    assert result.graph.node[0].op_type == "Constant"
    assert len(result.graph.node) == 2
    assert numpy_helper.to_array(result.graph.node[0].attribute[0].t).tolist() == axes
    np.testing.assert_array_equal(run(result), run(model))
    assert store(result) is result


@pytest.mark.parametrize("case", UNKNOWN)
def test_other_axes_stay(case):
    model = make(UNKNOWN[case])
    assert store(model) is model


def test_arithmetic_that_something_else_reads_stays():
    model = make(
        f"{RANK} u = Unsqueeze (r, zero) a = Sub (u, one) m = ReduceMax (x, a) v = Unsqueeze (m, a) y = Squeeze (v, a)"
    )
    result = store(model)
    assert [node.op_type for node in result.graph.node].count("Sub") == 1
    np.testing.assert_array_equal(run(result), run(model))
