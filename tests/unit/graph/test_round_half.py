from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto
from onnx.reference import ReferenceEvaluator

from deploy.onnxrt import Session, run_onnx
from edgeq.graph.round_half import round_half

CHAIN = """g (float[N,4] x) => (float[N,4] y) <KIND[4] k>
{ a = Cast<to=NUMBER> (x) b = Mul (a, k) c = Div (b, k) d = Relu (c) y = Cast<to=1> (d) }"""
NUMBERS = {"float16": 10, "bfloat16": 16}


def chain(parse_graph, kind: str) -> onnx.ModelProto:
    text = CHAIN.replace("KIND", kind).replace("NUMBER", str(NUMBERS[kind]))
    return parse_graph(text, opset=19)


@pytest.mark.parametrize("kind", NUMBERS)
def test_every_rounding_of_the_file_is_computed(parse_graph, kind):
    model = chain(parse_graph, kind)
    found = round_half(model)
    assert found.changed
    onnx.checker.check_model(found.model, full_check=True)
    x = np.random.default_rng(1).standard_normal((8, 4)).astype(np.float32)
    want = ReferenceEvaluator(model).run(None, {"x": x})[0]
    np.testing.assert_array_equal(run_onnx(found.model, {"x": x})["y"], want)


def test_an_overflow_shows_as_it_does_on_a_chip_with_half_precision(parse_graph):
    model = chain(parse_graph, "float16")
    large = {"x": np.full((1, 4), 6e4, np.float32)}
    model.graph.initializer[0].CopyFrom(
        onnx.numpy_helper.from_array(np.full(4, 100, np.float16), "k")
    )
    assert np.isinf(Session(model).run(large)["y"]).all()


@pytest.mark.parametrize("kind", NUMBERS)
def test_borders_become_float32_under_their_names_and_are_rounded(parse_graph, kind):
    model = parse_graph(f"g ({kind}[N,4] x) => ({kind}[N,4] y) {{ y = Identity (x) }}", opset=19)
    found = round_half(model).model
    kinds = [v.type.tensor_type.elem_type for v in (*found.graph.input, *found.graph.output)]
    assert kinds == [TensorProto.FLOAT] * 2
    third = np.full((1, 4), 1 / 3, np.float32)
    y = Session(model).run({"x": third})["y"]
    assert y.dtype == (np.float16 if kind == "float16" else np.float32)
    steps = {"float16": 2**-12, "bfloat16": 2**-9}
    assert 0 < abs(float(y[0, 0]) - 1 / 3) < steps[kind]


def test_a_model_without_half_precision_is_passed_on(parse_graph):
    model = parse_graph("g (float[N,4] x) => (float[N,4] y) { y = Relu (x) }")
    result = round_half(model)
    assert result.model is model
    assert not result.changed
