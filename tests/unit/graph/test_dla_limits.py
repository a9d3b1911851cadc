from __future__ import annotations

import pytest

from edgeq.graph.dla_limits import DLA_CHECKS, check_dla


def graph(body: str, parameters: str = "", *, shape: str = "N,4,8,8") -> str:
    return f"g (float[{shape}] x) => (float[A,B,C,D] y) <{parameters}> {{ {body} }}"


CONV = "float[4,4,3,3] w"
SLICE = "int64[1] f = {0}, int64[1] t = {9}, int64[1] a = {3}, int64[1] s = {2}"
# For each check graphs that DLA cannot take.
BAD = [
    ("operator", graph("y = Erf (x)"), "Erf is none"),
    ("axes", "g (float[N,8] x) => (float[N,8] y) { y = Relu (x) }", "2 axes"),
    ("axes", graph("y = Relu (x)", shape="N,4,8,W"), "only at run time"),
    ("axes", graph("y = Relu (x)", shape="5000,4,8,8"), "batch of 5000"),
    ("axes", graph("y = Relu (x)", shape="N,9000,1,1"), "9000"),
    ("convolution", graph("y = Conv<strides=[9,9]> (x, w)", CONV), "stride 9"),
    ("convolution", graph("y = Conv<dilations=[33,1]> (x, w)", CONV, shape="N,4,99,9"), "dilation"),
    ("convolution", graph("y = Conv<pads=[3,3,3,3]> (x, w)", CONV), "not below"),
    ("convolution", graph("y = Conv (x, w)", "float[4,4,33,1] w", shape="N,4,64,8"), "kernel 33"),
    ("transposed convolution", graph("y = ConvTranspose<pads=[1,1,1,1]> (x, w)", CONV), "padding"),
    ("transposed convolution", graph("y = ConvTranspose<group=2> (x, w)", CONV), "2 groups"),
    ("pooling", graph("y = GlobalAveragePool (x)", shape="N,4,9,9"), "window 9"),
    ("pooling", graph("y = MaxPool<kernel_shape=[2,2],strides=[17,17]> (x)"), "stride"),
    ("element-wise", graph("y = Max (x, x, x)"), "3 operands"),
    ("concat", graph("y = Concat<axis=2> (x, x)"), "axis 2"),
    ("softmax", graph("y = Softmax<axis=1> (x)", shape="N,1025,2,2"), "1025"),
    ("resize", graph("y = Resize (x, , s)", "float[4] s = {1, 1, 1.5, 1.5}"), "integers"),
    ("slice", graph("y = Slice (x, f, t, a, s)", SLICE), "steps"),
    ("slice", graph("y = Slice (x, f, t, a)", SLICE.replace("a = {3}", "a = {0}")), "batch"),
    ("prelu", graph("s = Abs (x) y = PRelu (x, s)"), "computed"),
    ("lrn", graph("y = LRN<size=11> (x)"), "window of 11"),
]  # fmt: skip
# Neighbours of these that it can take.
GOOD = [
    graph("y = Relu (x)"),
    graph("y = Conv<strides=[8,8],pads=[2,2,2,2],dilations=[2,2]> (x, w)", CONV),
    graph("y = ConvTranspose (x, w)", CONV),
    graph("y = GlobalAveragePool (x)"),
    graph("y = MaxPool<kernel_shape=[8,8],strides=[16,16]> (x)"),
    graph("y = Max (x, x)"),
    graph("y = Concat<axis=1> (x, x)"),
    graph("y = Softmax<axis=1> (x)", shape="N,4096,1,1"),
    graph("y = Resize (x, , s)", "float[4] s = {1, 1, 2, 2}"),
    graph('y = Resize<mode="linear"> (x, , s)', "float[4] s = {1, 1, 1.5, 1.5}"),
    graph("y = Slice (x, f, t, a, s)", SLICE.replace("s = {2}", "s = {1}")),
    graph("y = PRelu (x, s)", "float[1] s = {0.1}"),
    graph("y = LRN<size=5> (x)"),
]


@pytest.mark.parametrize(("check", "text", "words"), BAD)
def test_a_layer_that_dla_cannot_take_is_named_with_the_check_and_the_reason(
    parse_graph, check, text, words
):
    found = check_dla(parse_graph(text))
    assert [item.check for item in found if item.node == "y"] == [check], found
    assert words in found[-1].reason


def test_each_check_has_a_case():
    assert {check for check, _, _ in BAD} == set(DLA_CHECKS)


@pytest.mark.parametrize("text", GOOD)
def test_a_layer_within_the_limits_is_not_named(parse_graph, text):
    assert check_dla(parse_graph(text)) == ()


def test_quantizers_shapes_and_constants_are_no_layers(parse_graph):
    text = graph(
        "q = QuantizeLinear (x, s, z) d = DequantizeLinear (q, s, z) n = Shape (d) "
        "k = Constant<value = float {2}> () y = Relu (d)",
        "float s = {0.1}, int8 z = {0}",
    )
    assert check_dla(parse_graph(text)) == ()
