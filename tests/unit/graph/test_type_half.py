from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from deploy.onnxrt import run_onnx
from edgeq.core.errors import EdgeqBug
from edgeq.graph.as_float32 import as_float32
from edgeq.graph.half_rules import choose_full
from edgeq.graph.type_half import type_half
from edgeq.graph.view import GraphView, to_array

BLOCK = """g (float[N,4,8,8] x) => (float[N,4,8,8] y)
<float xs = {0.02}, float ws = {0.01}, int8 z = {0}, int8[4,4,3,3] w, float[4] b>
{ xq = QuantizeLinear (x, xs, z) xd = DequantizeLinear (xq, xs, z)
  wd = DequantizeLinear (w, ws, z) c = Conv<pads=[1,1,1,1]> (xd, wd, b) y = Relu (c) }"""
TAIL = BLOCK.replace("y = Relu (c)", "r = Relu (c) y = Softmax<axis=1> (r)")


def typed(model: onnx.ModelProto, amax: dict[str, float] | None = None) -> onnx.ModelProto:
    result = type_half(model, kept=choose_full(model, amax or {}))
    onnx.checker.check_model(result.model, full_check=True)
    return result.model


def types(model: onnx.ModelProto) -> dict[str, int]:
    view = GraphView(onnx.shape_inference.infer_shapes(model, strict_mode=True))
    names = [name for node in view.nodes for name in node.output]
    return {name: view.element_type(name) for name in [*names, *view.initializers]}


def ops(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


def feed(seed: int = 0) -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(seed).standard_normal((2, 4, 8, 8)).astype(np.float32)}


def test_inside_all_is_half_and_the_border_keeps_its_types(parse_graph):
    model = parse_graph(BLOCK, opset=19)
    before = model.SerializeToString()
    found = typed(model)
    assert model.SerializeToString() == before
    assert [*found.graph.input, *found.graph.output] == [*model.graph.input, *model.graph.output]
    kinds = types(found)
    assert kinds.pop("y") == TensorProto.FLOAT
    assert {kind for name, kind in kinds.items()} == {TensorProto.FLOAT16, TensorProto.INT8}
    assert ops(found)[0] == ops(found)[-1] == "Cast"
    assert ops(found).count("Cast") == 2


def test_codes_stay_and_names_of_constants_too(parse_graph):
    model = parse_graph(BLOCK, opset=19)
    old, new = ({i.name: i for i in m.graph.initializer} for m in (model, typed(model)))
    assert old.keys() == new.keys()
    assert old["w"] == new["w"]
    np.testing.assert_array_equal(to_array(old["b"]).astype(np.float16), to_array(new["b"]))


def test_the_result_computes_the_same_within_half_precision(parse_graph):
    model = parse_graph(TAIL, opset=19)
    want, got = (run_onnx(item, feed())["y"] for item in (model, typed(model)))
    assert got.dtype == np.float32
    # One code of the input moves a sum of 36 products by at most xs * ws * 127; the softmax does not amplify.
    assert np.abs(want - got).max() < 0.02 * 0.01 * 127


def test_casts_surround_what_stays_in_float32_once_a_tensor(parse_graph):
    text = BLOCK.replace(
        "y = Relu (c)",
        "r = Relu (c) a = Exp (r) b2 = Exp (r) t = Mul (a, a) u = Mul (b2, r) y = Add (t, u)",
    )
    found = typed(parse_graph(text, opset=19))
    casts = [(n.input[0], n.output[0]) for n in found.graph.node if n.op_type == "Cast"]
    assert casts.count(("r", "r/float32")) == 1
    assert types(found)["a"] == TensorProto.FLOAT
    assert types(found)["t"] == TensorProto.FLOAT16


def test_a_layer_of_tiny_scales_gets_dq_nodes_of_its_own_and_no_cast_behind_them(parse_graph):
    text = BLOCK.replace("ws = {0.01}", "ws = {1e-7}").replace(
        "y = Relu (c)", "e = MaxPool<kernel_shape=[1,1]> (xd) y = Add (c, e)"
    )
    found = typed(parse_graph(text, opset=19))
    view = GraphView(found)
    conv = view.producer("c")
    assert conv is not None
    for name in conv.input[:2]:
        maker = view.producer(name)
        assert maker is not None
        assert maker.op_type == "DequantizeLinear"
        assert types(found)[name] == TensorProto.FLOAT
    pair = view.producer(conv.input[0])
    quantizer = view.producer("xq")
    assert pair is not None
    assert quantizer is not None
    assert pair.input[0] == "xq"
    ours, theirs = view.constant(pair.input[1]), view.constant(quantizer.input[1])
    assert ours is not None
    assert theirs is not None
    assert (ours.dtype, theirs.dtype) == (np.float32, np.float16)
    assert ours == theirs.astype(np.float32)
    weight = view.producer(conv.input[1])
    assert weight is not None
    assert view.constant(weight.input[1]) == np.float32(1e-7)


def test_a_range_beyond_half_precision_stays_finite(parse_graph):
    text = BLOCK.replace("float[4] b", "float[4] b, float big = {3e4}").replace(
        "y = Relu (c)", "h = Mul (c, big) i = Mul (h, big) y = Div (i, big)"
    )
    model = parse_graph(text, opset=19)
    want = run_onnx(model, feed(), outputs=["h", "i"])
    amax = {name: float(np.abs(value).max()) for name, value in want.items()}
    got = run_onnx(typed(model, amax), feed())["y"]
    assert np.isfinite(got).all()
    assert not np.isfinite(run_onnx(typed(model), feed())["y"]).all()  # it would overflow


def test_a_constant_that_both_types_read_is_there_twice(parse_graph):
    text = BLOCK.replace("y = Relu (c)", "r = Relu (c) e = Pow (r, k) y = Mul (e, k)")
    found = typed(parse_graph(text.replace("float[4] b", "float[4] b, float k = {2}"), opset=19))
    held = {i.name: i.data_type for i in found.graph.initializer if i.name.startswith("k")}
    assert held == {"k": TensorProto.FLOAT, "k/float16": TensorProto.FLOAT16}


def test_what_onnx_wants_in_float32_stays_so(parse_graph):
    text = "g (float[N,4,8,8] x) => (float[N,4,16,16] y) <float[4] s> { y = Resize (x, , s) }"
    model = parse_graph(text, opset=19, s=np.float32([1, 1, 2, 2]))
    found = typed(model)
    assert types(found)["s"] == TensorProto.FLOAT
    assert types(found)["y/float16"] == TensorProto.FLOAT16


def test_computed_values_that_onnx_wants_in_float32_are_made_in_it(parse_graph):
    text = """g (float[N,4,8,8] x) => (float[N,4,H,W] y) <float[2] s, float[2] o>
    { c = Concat<axis=0> (o, s) y = Resize (x, , c) }"""
    third = np.float32([2.3, 2.3])
    model = parse_graph(text, opset=19, s=third, o=np.float32([1, 1]))
    found = typed(model)
    assert types(found)["c"] == TensorProto.FLOAT
    np.testing.assert_array_equal(GraphView(found).constant("s"), third)


@pytest.mark.parametrize("kind", ["float16", "bfloat16"])
def test_a_file_of_half_precision_comes_back_without_idle_casts(parse_graph, kind):
    text = f"""g ({kind}[N,4] x) => ({kind}[N,4] y) <{kind}[4,4] w>
    {{ m = MatMul (x, w) y = Relu (m) }}"""
    model = parse_graph(text, opset=19)
    wide = onnx.shape_inference.infer_shapes(as_float32(model).model)
    found = typed(wide)
    assert [*found.graph.input, *found.graph.output] == [*model.graph.input, *model.graph.output]
    casts = [] if kind == "float16" else ["Cast"]
    # A bfloat16 input is rounded by a Cast of its own, before it becomes FP16.
    assert ops(found) == [*2 * casts, "MatMul", "Relu", *casts]


LOOP = """g (float[4,8] x) => (float[4,8] y) <float[8,8] w, int64 n = {2}>
{ h = MatMul (x, w) r = Relu (h) y = Loop (n, , h) <body = b (int64 i, bool go, float[4,8] v)
  => (bool on, float[4,8] o) { on = Identity (go) m = MatMul (v, w) o = Add (m, r) }> }"""


def test_graphs_inside_a_node_and_what_they_read_stay_in_float32(parse_graph):
    weight = np.random.default_rng(1).standard_normal((8, 8)).astype(np.float32)
    model = parse_graph(LOOP, opset=19, w=weight)
    found = typed(model)
    assert {name: types(found)[name] for name in ("h", "r", "y")} == {
        "h": TensorProto.FLOAT16,
        "r": TensorProto.FLOAT,
        "y": TensorProto.FLOAT,
    }
    x = {"x": np.ones((4, 8), np.float32)}
    np.testing.assert_allclose(
        run_onnx(found, x)["y"], run_onnx(model, x)["y"], rtol=0.01, atol=0.1
    )


def test_what_goes_into_a_sequence_stays_in_float32(parse_graph):
    text = """g (float[4,8] x) => (float[8,8] y)
    { r = Relu (x) s = SequenceConstruct (r, r) y = ConcatFromSequence<axis=0> (s) }"""
    assert {item.node for item in choose_full(parse_graph(text, opset=19), {})} >= {"s", "y"}
    typed(parse_graph(text, opset=19))


def test_nothing_to_do_passes_the_model_on(parse_graph):
    model = parse_graph("g (int64[N] x) => (int64[N] y) { y = Neg (x) }", opset=19)
    result = type_half(model, kept=())
    assert result.model is model
    assert not result.changed


def test_a_second_run_changes_nothing(parse_graph):
    once = typed(parse_graph(TAIL, opset=19))
    kept = choose_full(onnx.shape_inference.infer_shapes(once), {})
    twice = type_half(once, kept=kept).model
    assert twice.graph.node == once.graph.node


def test_an_opset_without_half_scales_is_our_bug(parse_graph):
    with pytest.raises(EdgeqBug, match="opset 19"):
        type_half(parse_graph(BLOCK, opset=17), kept=())
