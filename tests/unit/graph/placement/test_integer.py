"""Placement for ONNX Runtime's CPU kernels."""

from __future__ import annotations

import onnx
import pytest

from deploy.cards import load_card
from edgeq.core.plan import Decision, DerivedRange, Grid, OwnRange, SharedRange
from edgeq.core.specs import BitSpec
from edgeq.graph.placement import plan_placement

UINT8, INT8 = Grid(bits=8, signed=False), Grid(bits=8)

RESIDUAL = """g (float[N,4,8,8] x) => (float[N,4] y)
<float[4,4,3,3] w0, float[4] b0, float[4,4,3,3] w1, float[4] b1, float[4,4] w2, float[4] b2>
{
  c0 = Conv<pads=[1,1,1,1]>(x, w0, b0)
  r0 = Relu(c0)
  c1 = Conv<pads=[1,1,1,1]>(r0, w1, b1)
  s = Add(c1, r0)
  r1 = Relu(s)
  p = GlobalAveragePool(r1)
  f = Flatten(p)
  y = Gemm<transB=1>(f, w2, b2)
}"""


def place(model: onnx.ModelProto, bits: str = "w8a8") -> dict[str, Decision]:
    plan = plan_placement(model, card=load_card("cpu"), bits=BitSpec.parse(bits), inputs=())
    return {decision.tensor: decision for decision in plan.decisions}


def sites(decision: Decision) -> list[str]:
    return [f"{site.node}[{site.index}]" for site in decision.sites]


def test_both_operands_of_a_residual_add_are_quantized_and_so_is_its_clamped_sum(parse_graph):
    found = place(parse_graph(RESIDUAL))
    assert found["c1"].grid == INT8
    assert sites(found["r0"]) == ["c1[0]", "s[1]"]
    assert found["r1"].grid == UINT8
    assert found["s"].grid is None
    assert "becomes part of the integer kernel" in found["s"].reason


def test_what_never_goes_below_zero_has_unsigned_codes(parse_graph):
    found = place(parse_graph(RESIDUAL))
    assert {name: found[name].grid for name in ("x", "r0", "p")} == {
        "x": INT8,
        "r0": UINT8,
        "p": UINT8,
    }


def test_the_pool_and_the_matrix_product_behind_it_stay_on_integers(parse_graph):
    found = place(parse_graph(RESIDUAL))
    assert found["f"].owner == SharedRange(with_tensor="p")
    assert sites(found["f"]) == ["y[0]"]


def test_a_bias_takes_its_scale_from_activation_and_weight(parse_graph):
    found = place(parse_graph(RESIDUAL))
    assert found["b1"].owner == DerivedRange(activation="r0", weight="w1")
    assert found["b1"].grid is None


def test_a_bias_of_two_layers_stays_float(parse_graph):
    found = place(parse_graph(RESIDUAL.replace("w1, b1)", "w1, b0)")))
    assert found["b0"].owner is None


def test_a_convolution_whose_result_leaves_the_network_stays_float(parse_graph):
    found = place(
        parse_graph("""g (float[N,4,8,8] x) => (float[N,4,8,8] y)
        <float[4,4,1,1] w0, float[4,4,1,1] w1> { c = Conv(x, w0) r = Relu(c) y = Conv(r, w1) }""")
    )
    assert (
        found["r"].grid == UINT8
    )  # what the first convolution gives is quantized for its float reader too
    assert sites(found["r"]) == ["y[0]"]
    assert "w1" not in found
    assert found["w0"].grid is not None


def test_the_scale_of_a_clipped_tensor_is_bounded_so_that_the_clip_can_be_dropped(parse_graph):
    found = place(
        parse_graph("""g (float[N,4,8,8] x) => (float[N,4] y)
        <float[4,4,1,1] w0, float[4,4] w1, float low = {0.0}, float high = {6.0}>
        { c = Conv(x, w0) r = Clip(c, low, high) p = MaxPool<kernel_shape=[8,8]>(r)
          f = Flatten(p) y = Gemm<transB=1>(f, w1) }""")
    )
    assert found["r"].owner == OwnRange(limit=6.0)
    assert [found[name].owner for name in ("p", "f")] == [SharedRange(with_tensor="r")] * 2
    assert found["c"].grid is None


def test_a_clip_that_lets_negative_values_pass_is_not_absorbed(parse_graph):
    found = place(
        parse_graph("""g (float[N,4,8,8] x) => (float[N,4,8,8] y)
        <float[4,4,1,1] w0, float low = {-1.0}, float high = {1.0}>
        { c = Conv(x, w0) y = Clip(c, low, high) }""")
    )
    assert found["c"].grid == INT8


def test_an_activation_without_an_integer_kernel_is_an_island_between_quantized_tensors(
    parse_graph,
):
    found = place(
        parse_graph("""g (float[N,4,8,8] x) => (float[N,4] y)
        <float[4,4,1,1] w0, float[4,4,1,1] w1, float[4,4] w2>
        { c = Conv(x, w0) h = HardSwish(c) d = Conv(h, w1) t = Sigmoid(d) m = Mul(d, t)
          p = GlobalAveragePool(m) f = Flatten(p) y = Gemm<transB=1>(f, w2) }""")
    )
    assert all(found[name].grid is not None for name in ("c", "h", "d", "t", "m", "p", "f"))
    assert found["t"].grid == UINT8
    assert "reads what an integer kernel gives" in found["c"].reason


def test_parts_and_result_of_a_concat_have_one_scale(parse_graph):
    found = place(
        parse_graph("""g (float[N,4,8,8] x) => (float[N,4] y)
        <float[4,4,1,1] w0, float[4,4,1,1] w1, float[4,8,1,1] w2, float[4,4] w3>
        { a = Conv(x, w0) b = Conv(x, w1) k = Concat<axis=1>(a, b) d = Conv(k, w2)
          p = GlobalAveragePool(d) f = Flatten(p) y = Gemm<transB=1>(f, w3) }""")
    )
    assert [found[name].owner for name in ("b", "k")] == [SharedRange(with_tensor="a")] * 2


def test_an_add_of_tensors_that_no_integer_kernel_makes_stays_float(parse_graph):
    found = place(
        parse_graph("""g (float[N,8] x) => (float[N,8] y)
        <float[8,8] w, float[8] scale, float[8] shift>
        { n = LayerNormalization(x, scale, shift) m = MatMul(n, w) y = Add(m, x) }""")
    )
    assert found["n"].grid == INT8
    assert [found[name].grid for name in ("m", "x")] == [None, None]


def test_a_factor_that_nodes_compute_from_weights_alone_stays_float(parse_graph):
    found = place(
        parse_graph("""g (float[N,4,8,8] x) => (float[N,4] y)
        <float[4,4,1,1] w0, float[4] power, int64[4] shape = {1,4,1,1}, float[4,4] w1>
        { c = Conv(x, w0) e = Exp(power) factor = Reshape(e, shape) s = Mul(c, factor)
          p = GlobalAveragePool(s) f = Flatten(p) y = Gemm<transB=1>(f, w1) }""")
    )
    assert not {"power", "e", "factor"} & set(found)
    assert found["c"].grid == INT8


def test_a_transposed_convolution_stays_float(parse_graph):
    found = place(
        parse_graph("""g (float[N,4,8,8] x) => (float[N,4,8,8] y) <float[4,4,1,1] w>
        { y = ConvTranspose(x, w) }""")
    )
    assert found["x"].grid is None
    assert "no integer kernel" in found["x"].reason


def test_what_the_first_layer_makes_has_8_bits_for_integer_kernels_too(parse_graph):
    decision = place(parse_graph(RESIDUAL), "w4a4")["r0"]
    assert decision.grid == Grid(bits=8, signed=False)
    assert "8 bits: the first layer makes it" in decision.reason


@pytest.mark.parametrize(("tensor", "bits"), [("c1", 8), ("r1", 4)])
def test_narrow_widths_are_for_what_layers_with_weights_read(parse_graph, tensor, bits):
    model = parse_graph(
        RESIDUAL.replace("p = ", "d = Conv<pads=[1,1,1,1]>(r1, w1, b1)\n p = ").replace(
            "(r1)", "(d)"
        )
    )
    assert place(model, "w4a4")[tensor].grid.bits == bits
