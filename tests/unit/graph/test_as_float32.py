from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper
from onnx.reference import ReferenceEvaluator

from deploy.onnxrt import Session
from edgeq.graph.as_float32 import as_float32
from edgeq.graph.round_half import round_half

HALF = """g (float16[N,4] x, float[N,4] z) => (float16[N,4] y, float[N,4] o) <float16[4,4] w>
{ c = Constant<value = float16 {2}> () m = MatMul (x, w) d = Mul (m, c) h = Cast<to=10> (z) y = Add (d, h)
  o = Cast<to=1> (y) }"""


def test_the_result_computes_the_same_and_keeps_inputs_and_outputs(parse_graph):
    model = parse_graph(HALF)
    before = model.SerializeToString()
    result = as_float32(model)
    assert model.SerializeToString() == before
    assert result.changed
    onnx.checker.check_model(result.model, full_check=True)
    assert list(result.model.graph.input) == list(model.graph.input)
    assert list(result.model.graph.output) == list(model.graph.output)
    rng = np.random.default_rng(0)
    feed = {"x": rng.normal(size=(3, 4)).astype(np.float16), "z": np.ones((3, 4), np.float32)}
    wanted, found = (ReferenceEvaluator(item).run(None, feed) for item in (model, result.model))
    for a, b in zip(wanted, found, strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(a, b, rtol=4e-3, atol=4e-3)


def test_an_input_and_a_constant_that_are_outputs_keep_name_and_type(parse_graph):
    model = parse_graph(
        "g (float16[N,4] x) => (float16[N,4] x, float16[4,4] w, float16[N,4] y) <float16[4,4] w> { y = MatMul (x, w) }"
    )
    result = as_float32(model)
    onnx.checker.check_model(result.model, full_check=True)
    feed = {"x": np.ones((3, 4), np.float16)}
    wanted, found = (ReferenceEvaluator(item).run(None, feed) for item in (model, result.model))
    for a, b in zip(wanted, found, strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(a, b, rtol=4e-3, atol=4e-3)


@pytest.mark.parametrize("name", ["float16", "bfloat16"])
def test_nothing_inside_is_half_any_more_and_the_user_is_told(parse_graph, name):
    number = {"float16": 10, "bfloat16": 16}[name]
    text = HALF.replace("float16", name).replace("to=10", f"to={number}")
    result = as_float32(
        parse_graph(
            text.replace(f" c = Constant<value = {name} {{2}}> ()", "").replace("(m, c)", "(m, m)")
        )
    )
    inner = onnx.shape_inference.infer_shapes(result.model, strict_mode=True).graph
    kinds = {item.name: item.type.tensor_type.elem_type for item in inner.value_info}
    kinds.pop("x/bfloat16", None)  # the input, rounded
    assert set(kinds.values()) == {TensorProto.FLOAT}
    assert [numpy_helper.to_array(item).dtype for item in inner.initializer] == [np.float32]
    (finding,) = result.findings
    assert name in finding


def test_a_model_without_half_precision_is_passed_on(parse_graph):
    model = parse_graph("g (float[N,4] x) => (float[N,4] y) { y = Relu (x) }")
    result = as_float32(model)
    assert result.model is model
    assert not result.changed


def test_a_bfloat16_input_is_rounded_before_it_is_widened(parse_graph):
    model = parse_graph("g (bfloat16[N,4] x) => (bfloat16[N,4] y) { y = Relu (x) }", opset=19)
    casts = [node for node in as_float32(model).model.graph.node if node.op_type == "Cast"]
    assert [node.attribute[0].i for node in casts] == [
        TensorProto.BFLOAT16,
        TensorProto.FLOAT,
        TensorProto.BFLOAT16,
    ]


LOOP = """g (float16[4,4] x) => (float16[4,4] y) <float16[4,4] w, int64 n = {2}>
{ h = MatMul (x, w) y = Loop (n, , h) <body = b (int64 i, bool go, float16[4,4] v)
  => (bool on, float16[4,4] o) { on = Identity (go) m = MatMul (v, w) o = Add (m, x) }> }"""


@pytest.mark.parametrize("rewrite", [as_float32, round_half])
def test_the_graph_inside_a_loop_is_widened_with_it(parse_graph, rewrite):
    rng = np.random.default_rng(0)
    w, x = rng.normal(size=(2, 4, 4)).astype(np.float16)
    model = parse_graph(LOOP, w=w)
    found = rewrite(model).model
    onnx.checker.check_model(found, full_check=True)
    kind = found.graph.input[0].type.tensor_type.elem_type
    feed = {"x": x.astype(onnx.helper.tensor_dtype_to_np_dtype(kind))}
    y = Session(found, as_written=True).run(feed)["y"]
    a, b = w.astype(np.float64), x.astype(np.float64)
    np.testing.assert_allclose(y, ((b @ a) @ a + b) @ a + b, rtol=1e-2, atol=1e-2)
