from __future__ import annotations

import numpy as np
import pytest

from edgeq.core.plan import Grid, Role

CONV = """g (float[N,4,8,8] x) => (float[N,6,8,8] y)
<float[6,4,3,3] w, float[6] b>
{
  c = Conv<pads=[1,1,1,1]>(x, w, b)
  y = Relu(c)
}"""


def test_a_conv_reads_its_input_per_tensor_and_its_weight_per_output_channel(parse_graph, place):
    decisions = place(parse_graph(CONV))
    assert decisions["x"].grid == Grid(bits=8)
    assert decisions["w"].grid == Grid(bits=8, narrow=True, axis=0)
    assert decisions["w"].role is Role.WEIGHT
    assert [(site.node, site.index) for site in decisions["w"].sites] == [("c", 1)]


@pytest.mark.parametrize(
    ("bits", "codes"), [("w8a8", (-127, 127)), ("w4a4", (-8, 7)), ("w2a4", (-2, 1))]
)
def test_weights_leave_the_lowest_code_out_at_8_bits_alone(parse_graph, place, bits, codes):
    grid = place(parse_graph(CONV), bits, first_last_same=True)["w"].grid
    assert (grid.low, grid.high) == codes


def test_nothing_stands_between_a_conv_and_its_activation(parse_graph, place):
    assert "c" not in place(parse_graph(CONV))


def test_a_bias_stays_float_and_says_why(parse_graph, place):
    bias = place(parse_graph(CONV))["b"]
    assert (bias.grid, bias.owner, bias.rule) == (None, None, "bias")
    assert "higher precision" in bias.reason


def test_a_depthwise_conv_has_its_own_rule_and_a_scale_a_channel(parse_graph, place):
    model = parse_graph("""g (float[N,4,8,8] x) => (float[N,4,6,6] y) <float[4,1,3,3] w>
    { y = Conv<group=4>(x, w) }""")
    weight = place(model)["w"]
    assert weight.rule == "depthwise"
    assert weight.grid == Grid(bits=8, narrow=True, axis=0)


def test_a_grouped_conv_that_is_not_depthwise_is_an_ordinary_conv(parse_graph, place):
    model = parse_graph("""g (float[N,4,8,8] x) => (float[N,4,6,6] y) <float[4,2,3,3] w>
    { y = Conv<group=2>(x, w) }""")
    assert place(model)["w"].rule == "conv"


@pytest.mark.parametrize(
    ("node", "shape", "axis"),
    [
        ("Gemm<transB=1>", "20,32", 0),
        ("Gemm", "32,20", 1),
        ("MatMul", "32,20", 1),
    ],
    ids=["gemm_transposed", "gemm", "matmul"],
)
def test_the_scales_of_a_matrix_lie_along_its_output_features(
    parse_graph, place, node, shape, axis
):
    model = parse_graph(
        f"g (float[N,32] x) => (float[N,20] y) <float[{shape}] w> {{ y = {node}(x, w) }}"
    )
    assert place(model)["w"].grid == Grid(bits=8, narrow=True, axis=axis)


def test_a_small_matrix_is_quantized_and_the_reason_says_that_it_is_small(parse_graph, place):
    model = parse_graph(
        "g (float[N,32] x) => (float[N,10] y) <float[32,10] w> { y = MatMul(x, w) }"
    )
    assert "small product (32x10)" in place(model)["x"].reason


def test_a_large_matrix_is_not_called_small(parse_graph, place):
    model = parse_graph(
        "g (float[N,32] x) => (float[N,16] y) <float[32,16] w> { y = MatMul(x, w) }"
    )
    assert "small" not in place(model)["x"].reason


def test_a_transposed_conv_has_its_scales_on_axis_1(parse_graph, place):
    model = parse_graph("""g (float[N,4,8,8] x) => (float[N,6,10,10] y) <float[4,6,3,3] w>
    { y = ConvTranspose(x, w) }""")
    assert place(model)["w"].grid == Grid(bits=8, narrow=True, axis=1)


def test_a_grouped_transposed_conv_stays_float(parse_graph, place):
    model = parse_graph("""g (float[N,4,8,8] x) => (float[N,6,10,10] y) <float[4,3,3,3] w>
    { y = ConvTranspose<group=2>(x, w) }""")
    decisions = place(model)
    assert decisions["x"].grid is None
    assert "grouped" in decisions["x"].reason
    assert "w" not in decisions


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "g (float[N,4,4] x) => (float[N,4,4] y) { a = Relu(x) y = MatMul(x, a) }",
            "computed at run time",
        ),
        (
            "g (float[N,4] x, float[4,6] v) => (float[N,6] y) { y = Gemm(x, v) }",
            "computed at run time",
        ),
        ("g (float[4,N] x) => (float[6,N] y) <float[6,4] w> { y = MatMul(w, x) }", "constant"),
        ("g (float[N,4] x) => (float[N] y) <float[4] w> { y = MatMul(x, w) }", "vector"),
    ],
    ids=["two_activations", "weight_is_an_input", "constant_on_the_left", "vector"],
)
def test_a_product_without_a_constant_matrix_stays_float(parse_graph, place, text, words):
    decisions = place(parse_graph(text))
    assert all(decision.grid is None for decision in decisions.values())
    assert words in decisions["x"].reason


def test_a_weight_of_doubles_stays_float(parse_graph, place):
    model = parse_graph(
        "g (double[N,32] x) => (double[N,16] y) <double[32,16] w> { y = MatMul(x, w) }",
        w=np.ones((32, 16)),
    )
    assert "not float32" in place(model)["x"].reason


def test_a_weight_read_by_two_convs_has_one_decision_with_both_sites(parse_graph, place):
    model = parse_graph("""g (float[N,4,8,8] x) => (float[N,4,4,4] y) <float[4,4,3,3] w>
    { a = Conv(x, w) y = Conv(a, w) }""")
    decisions = place(model)
    assert [site.node for site in decisions["w"].sites] == ["a", "y"]


def test_a_weight_whose_readers_want_different_axes_has_one_scale(parse_graph, place):
    model = parse_graph("""g (float[N,16] x) => (float[N,16] y) <float[16,16] w>
    { a = Gemm<transB=1>(x, w) y = Gemm(a, w) }""")
    weight = place(model)["w"]
    assert weight.grid == Grid(bits=8, narrow=True, axis=None)
    assert "disagree" in weight.reason


def test_a_weight_behind_identity_is_known_by_its_initializer(parse_graph, place):
    model = parse_graph("""g (float[N,4,8,8] x) => (float[N,6,6,6] y) <float[6,4,3,3] w>
    { i = Identity(w) y = Conv(x, i) }""")
    decisions = place(model)
    assert "w" in decisions
    assert "i" not in decisions
