"""A Gemm's one bias for all channels becomes one for each; the network computes what it computed."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator

from edgeq.graph.spread_biases import spread_biases


def run(model: onnx.ModelProto) -> np.ndarray:
    x = np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)
    return ReferenceEvaluator(model).run(None, {"x": x})[0]


def shapes_of(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    return {item.name: tuple(item.dims) for item in model.graph.initializer}


@pytest.mark.parametrize("bias", ["float[1] b = {0.5}", "float b = {0.5}", "float[1,1] b = {0.5}"])
@pytest.mark.parametrize(
    ("weight", "gemm"), [("float[2,3] w", "Gemm<transB=1>"), ("float[3,2] w", "Gemm<beta=2.0>")]
)
def test_a_bias_of_one_element_gets_one_for_each_channel(parse_graph, bias, weight, gemm):
    model = parse_graph(
        f"g (float[N,3] x) => (float[N,2] y) <{weight}, {bias}> {{ y = {gemm} (x, w, b) }}"
    )
    before = model.SerializeToString()
    found = spread_biases(model)
    assert shapes_of(found.model) == {"w": shapes_of(model)["w"], "b/spread": (2,)}
    assert model.SerializeToString() == before
    onnx.checker.check_model(found.model, full_check=True)
    np.testing.assert_array_equal(run(found.model), run(model))


def test_what_else_reads_the_bias_keeps_it(parse_graph):
    model = parse_graph(
        """g (float[N,3] x) => (float[N,2] y) <float[2,3] w, float[1] b = {0.5}>
        { h = Constant<value = float {0.0}> () z = Gemm<transB=1> (x, w, b) s = Add (z, b) y = Add (s, h) }"""
    )
    found = spread_biases(model).model
    assert shapes_of(found)["b"] == (1,)
    assert numpy_helper.to_array(found.graph.initializer[-1]).tolist() == [0.5, 0.5]
    np.testing.assert_array_equal(run(found), run(model))


@pytest.mark.parametrize(
    "text",
    [
        "g (float[N,3] x) => (float[N,2] y) <float[2,3] w, float[2] b> { y = Gemm<transB=1> (x, w, b) }",
        "g (float[N,3] x) => (float[N,1] y) <float[1,3] w, float[1] b> { y = Gemm<transB=1> (x, w, b) }",
        "g (float[N,3] x) => (float[N,2] y) <float[2,3] w> { y = Gemm<transB=1> (x, w) }",
    ],
)
def test_other_biases_stay(parse_graph, text):
    model = parse_graph(text)
    assert spread_biases(model).model is model
