"""The rank of a Reshape is the length of its target shape, whatever the sizes are."""

from __future__ import annotations

import onnx
import pytest

from edgeq.graph.infer_ranks import infer_shapes
from edgeq.graph.view import GraphView

# The first size of the target is that of the batch, which is not known (from opset 15 on, ONNX knows the rest); a
# second Reshape follows.
CHAIN = """g (float[N,4,H,W] x) => (float[A,B] y) <int64[1] from = {0}, int64[1] to = {2}, int64[1] rest = {-1}>
{
  s = Shape(x)
  front = Slice(s, from, to)
  target = Concat<axis=0>(front, rest)
  flat = Reshape(x, target)
  turned = Transpose<perm=[0,2,1]>(flat)
  s2 = Shape(turned)
  batch = Slice(s2, from, rest)
  y = Reshape(turned, batch)
}"""


def test_a_chain_of_computed_reshapes_has_ranks(parse_graph):
    model = parse_graph(CHAIN, opset=13, check=False)
    del model.graph.output[0].type.tensor_type.shape.dim[:]
    model.graph.output[0].type.tensor_type.ClearField("shape")
    before = model.SerializeToString()
    assert GraphView(onnx.shape_inference.infer_shapes(model, data_prop=True)).shape("flat") is None
    view = GraphView(infer_shapes(model))
    assert [len(view.shape(name)) for name in ("flat", "turned", "y")] == [3, 3, 2]
    assert view.element_type("flat") == onnx.TensorProto.FLOAT
    assert model.SerializeToString() == before


def test_sizes_that_onnx_knows_stay(parse_graph):
    model = parse_graph(
        "g (float[2,3] x) => (float[3,2] y) <int64[2] to = {3,2}> { y = Reshape(x, to) }"
    )
    assert GraphView(infer_shapes(model)).shape("y") == (3, 2)


def test_a_target_of_unknown_length_leaves_the_rank_open(parse_graph):
    model = parse_graph(
        "g (float[4] x, int64[K] to) => (float[A,B] y) { z = Reshape(x, to) y = Relu(z) }",
        check=False,
    )
    model.graph.output[0].type.tensor_type.ClearField("shape")
    assert GraphView(infer_shapes(model)).shape("z") is None


def test_strict_inference_raises_on_a_contradiction(parse_graph):
    model = parse_graph(
        "g (float[2,3] x) => (float[2,5] y) <float[4,5] w> { y = MatMul(x, w) }", check=False
    )
    with pytest.raises(onnx.shape_inference.InferenceError):
        infer_shapes(model, strict=True)
