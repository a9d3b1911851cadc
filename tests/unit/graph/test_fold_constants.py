"""A weight, or axes, computed from constants become an initializer; nothing else changes."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator

from edgeq.core.errors import ModelError
from edgeq.graph.fold_constants import fold_bounds, fold_constants

TRANSPOSED = """g (float[N,3] x) => (float[N,2] y) <float[2,3] w>
{ t = Transpose<perm=[1,0]>(w) y = MatMul(x, t) }"""


def run(model: onnx.ModelProto) -> np.ndarray:
    x = np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)
    return ReferenceEvaluator(model).run(None, {"x": x})[0]


def test_a_transposed_weight_becomes_an_initializer_of_the_same_name(parse_graph):
    model = parse_graph(TRANSPOSED)
    before = model.SerializeToString()
    found = fold_constants(model)
    assert [node.op_type for node in found.model.graph.node] == ["MatMul"]
    stored = {item.name: numpy_helper.to_array(item) for item in found.model.graph.initializer}
    assert set(stored) == {"t"}
    np.testing.assert_array_equal(stored["t"], numpy_helper.to_array(model.graph.initializer[0]).T)
    assert found.touched == ("t", "w")
    assert model.SerializeToString() == before
    onnx.checker.check_model(found.model, full_check=True)
    np.testing.assert_array_equal(run(found.model), run(model))


def test_computed_axes_of_a_reduction_become_an_initializer(parse_graph):
    model = parse_graph(
        """g (float[N,3] x) => (float[N,1] y, int64[1] k)
        { a = Constant<value = int64 {-1}>() one = Constant<value = int64[1] {-1}>()
          k = Reshape(a, one) axes = Reshape(a, one) y = ReduceMean(x, axes) }""",
        opset=18,
    )
    found = fold_constants(model).model
    assert [node.op_type for node in found.graph.node] == ["Constant"] * 2 + [
        "Reshape",
        "ReduceMean",
    ]
    (axes,) = found.graph.initializer
    assert (axes.name, numpy_helper.to_array(axes).tolist()) == ("axes", [-1])
    np.testing.assert_array_equal(run(found), run(model))


def test_computed_bounds_of_a_slice_become_initializers_and_shapes_are_inferred(parse_graph):
    """As torch.onnx.export writes x.unflatten(-1, (2, 3)); the inference takes the Slice for the whole shape."""
    model = parse_graph(
        """g (float[N,4,6] x) => (float[a,b,c,d] y)
        <int64[1] minus = {-1}, int64[1] rank = {3}, int64[1] zero = {0}, int64[2] parts = {2,3}>
        { s = Shape(x) a1 = Add(minus, rank) end = Mod(a1, rank) head = Slice(s, zero, end)
          sizes = Concat<axis=0>(head, parts) y = Reshape(x, sizes) }""",
        check=False,
    )
    found = fold_bounds(model)
    assert "Mod" not in {node.op_type for node in found.model.graph.node}
    (end,) = [item for item in found.model.graph.initializer if item.name == "end"]
    assert numpy_helper.to_array(end).tolist() == [2]
    inferred = onnx.shape_inference.infer_shapes(found.model, data_prop=True)
    shape = inferred.graph.output[0].type.tensor_type.shape
    assert [dim.dim_value for dim in shape.dim[1:]] == [4, 2, 3]
    x = np.arange(48, dtype=np.float32).reshape(2, 4, 6)
    for item in (model, found.model):
        (y,) = ReferenceEvaluator(item).run(None, {"x": x})
        np.testing.assert_array_equal(y, x.reshape(2, 4, 2, 3))
    assert fold_bounds(found.model).model is found.model


def test_bounds_that_a_shape_decides_stay(parse_graph):
    model = parse_graph(
        """g (float[N,4,6] x) => (float[N,?,6] y)
        <int64[1] zero = {0}, int64[1] one = {1}>
        { s = Shape<start=1,end=2>(x) end = Sub(s, one) y = Slice(x, zero, end, one) }""",
        check=False,
    )
    assert fold_bounds(model).model is model


def test_folding_twice_is_folding_once(parse_graph):
    once = fold_constants(parse_graph(TRANSPOSED))
    twice = fold_constants(once.model)
    assert once.changed
    assert not twice.changed
    assert twice.model is once.model


def test_a_chain_with_a_constant_node_is_computed_and_what_others_read_stays(parse_graph):
    model = parse_graph(
        """g (float[N,3] x) => (float[N,2] y, float[2,3] z) <float16[2,3] w>
        { c = Cast<to=1>(w)
          k = Constant<value = float[1] {2.0}>()
          s = Mul(c, k)
          t = Transpose<perm=[1,0]>(s)
          y = MatMul(x, t)
          z = Relu(c) }"""
    )
    found = fold_constants(model).model
    assert [node.op_type for node in found.graph.node] == ["Cast", "MatMul", "Relu"]
    assert {item.name for item in found.graph.initializer} == {"w", "t"}
    np.testing.assert_array_equal(run(found), run(model))


def test_of_what_a_cast_is_like_only_the_type_is_read(parse_graph):
    model = parse_graph(
        """g (float[N,3] x) => (float[N,2] y) <float[2,3] w>
        { one = Constant<value = int64 {3}>()
          r = Relu(x)
          like = CastLike(one, r)
          size = Shape<start=0,end=1>(w)
          b = Expand(like, size)
          y = Gemm<transB=1>(r, w, b) }"""
    )
    found = fold_constants(model).model
    assert [node.op_type for node in found.graph.node] == ["Relu", "Gemm"]
    stored = {item.name: numpy_helper.to_array(item) for item in found.graph.initializer}
    np.testing.assert_array_equal(stored["b"], np.float32([3, 3]))
    assert stored["b"].dtype == np.float32
    np.testing.assert_array_equal(run(found), run(model))


def test_a_file_of_ir_version_3_lists_the_initializer_as_an_input(parse_graph):
    text = (
        '<ir_version: 3, opset_import: ["" : 13]> g (float[4,3] x, float[2,3] w) => (float[4,2] y)'
        " { t = Transpose<perm=[1,0]>(w) y = MatMul(x, t) }"
    )
    model = onnx.parser.parse_model(text)
    model.graph.initializer.append(numpy_helper.from_array(np.ones((2, 3), np.float32), "w"))
    found = fold_constants(model).model
    assert [item.name for item in found.graph.input] == ["x", "t"]
    onnx.checker.check_model(found, full_check=True)


@pytest.mark.parametrize(
    "body",
    [
        "{ t = Transpose<perm=[1,0]>(x) y = MatMul(x, t) }",
        "{ r = RandomNormal<shape=[3,2]>() y = MatMul(x, r) }",
        "{ t = Transpose<perm=[1,0]>(w) y = Add(x, t) }",
        "{ i = Identity(v) y = MatMul(x, i) }",
    ],
    ids=["computed_at_run_time", "random", "no_weight", "identity_of_a_constant"],
)
def test_everything_else_is_left_alone(parse_graph, body):
    shape = "3,3" if "Add" in body or "(x)" in body else "3,2"
    model = parse_graph(
        f"g (float[3,3] x) => (float[{shape}] y) <float[3,3] w, float[3,2] v> {body}"
    )
    found = fold_constants(model)
    assert found.model is model
    assert not found.changed


def test_constants_that_do_not_fit_are_told_with_the_weight(parse_graph):
    model = parse_graph(
        """g (float[N,3] x) => (float[N,2] y) <float[2,3] w, float[5,3] v>
        { t = Add(w, v) y = MatMul(x, t) }""",
        check=False,
    )
    with pytest.raises(ModelError, match="'t' cannot be computed"):
        fold_constants(model)
