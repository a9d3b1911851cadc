from __future__ import annotations

import pytest

from edgeq.core.plan import SharedRange

HEAD = "g (float[N,4,8,8] x) => (float[N,4,8,8] y) <float[4,4,1,1] w0, float[4,4,1,1] w1, "
BLOCK = (
    HEAD
    + """float[4,4,1,1] w2>
{
  c0 = Conv(x, w0)
  r0 = Relu(c0)
  c1 = Conv(r0, w1)
  s = Add(c1, r0)
  r1 = Relu(s)
  y = Conv(r1, w2)
}"""
)


def sites(decision):
    return [(site.op_type, site.node, site.index) for site in decision.sites]


def test_the_shortcut_is_quantized_and_the_branch_is_not(parse_graph, place):
    decisions = place(parse_graph(BLOCK))
    assert decisions["c1"].grid is None
    assert decisions["c1"].rule == "residual add"
    assert decisions["r0"].grid is not None


def test_an_identity_shortcut_shares_the_decision_of_the_branch_input(parse_graph, place):
    assert sites(place(parse_graph(BLOCK))["r0"]) == [("Conv", "c1", 0), ("Add", "s", 1)]


def test_the_shortcut_may_be_the_first_operand(parse_graph, place):
    decisions = place(parse_graph(BLOCK.replace("Add(c1, r0)", "Add(r0, c1)")))
    assert ("Add", "s", 0) in sites(decisions["r0"])
    assert decisions["c1"].grid is None


def test_of_two_branches_the_deeper_stays_float_and_the_downsample_gets_its_own_pair(
    parse_graph, place
):
    text = (
        HEAD
        + """float[4,4,1,1] w2, float[4,4,1,1] wd>
    {
      r0 = Relu(x)
      d = Conv(r0, wd)
      c0 = Conv(r0, w0)
      r1 = Relu(c0)
      c1 = Conv(r1, w1)
      s = Add(d, c1)
      y = Conv(s, w2)
    }"""
    )
    decisions = place(parse_graph(text))
    assert decisions["c1"].grid is None
    assert "deeper of two branches" in decisions["c1"].reason
    assert sites(decisions["d"]) == [("Add", "s", 0)]


@pytest.mark.parametrize(("same", "bits"), [(False, 8), (True, 4)])
def test_a_shortcut_that_no_layer_reads_has_8_bits_unless_all_are_the_same(
    parse_graph, place, same, bits
):
    model = parse_graph(
        HEAD
        + """float[4,4,1,1] w2, float[4,4,1,1] w3>
    {
      a = Conv(x, w0)
      c0 = Relu(a)
      c1 = Conv(c0, w1)
      r1 = Relu(c1)
      b = Conv(r1, w2)
      d = Conv(c0, w3)
      y = Add(b, d)
    }"""
    )
    decision = place(model, "w4a4", first_last_same=same)["d"]
    assert decision.grid.bits == bits
    assert decision.reason.endswith("no layer with weights reads it") is not same


def test_of_two_equally_deep_branches_the_first_operand_stays_float(parse_graph, place):
    text = HEAD + "float[4,4,1,1] w2> { a = Conv(x, w0) b = Conv(x, w1) y = Add(b, a) }"
    decisions = place(parse_graph(text))
    assert decisions["b"].grid is None
    assert decisions["a"].grid is not None


def test_a_branch_with_a_second_reader_is_the_shortcut(parse_graph, place):
    text = (
        HEAD
        + "float[4,4,1,1] w2> { a = Conv(x, w0) b = Conv(a, w1) s = Add(a, b) y = Conv(s, w2) }"
    )
    decisions = place(parse_graph(text))
    assert sites(decisions["a"]) == [("Conv", "b", 0), ("Add", "s", 0)]
    assert decisions["b"].grid is None


def test_a_branch_that_is_a_graph_output_stays_the_users_own_tensor(parse_graph, place):
    text = """g (float[N,4,8,8] x) => (float[N,4,8,8] y, float[N,4,8,8] a) <float[4,4,1,1] w>
    { a = Conv(x, w) r = Relu(x) y = Add(a, r) }"""
    decisions = place(parse_graph(text))
    assert decisions["a"].grid is None
    assert "not read quantized" in decisions["r"].reason


def test_a_shortcut_reached_by_data_movement_shares_the_scale_of_its_source(parse_graph, place):
    text = """g (float[N,4,8,8] x) => (float[N,8,4,4] y)
    <float[4,4,1,1] w0, float[8,4,1,1] w1, float[8,8,1,1] w2,
     int64[2] from = {0,0}, int64[2] to = {100,100}, int64[2] axes = {2,3}, int64[2] steps = {2,2},
     int64[8] pads = {0,2,0,0,0,2,0,0}>
    {
      c0 = Conv(x, w0)
      r0 = Relu(c0)
      c1 = Conv<strides=[2,2]>(r0, w1)
      cut = Slice(r0, from, to, axes, steps)
      wide = Pad(cut, pads)
      s = Add(c1, wide)
      y = Conv(s, w2)
    }"""
    decisions = place(parse_graph(text), "w4a4")
    assert decisions["wide"].owner == SharedRange(with_tensor="r0")
    assert decisions["wide"].grid == decisions["r0"].grid
    assert sites(decisions["wide"]) == [("Add", "s", 1)]


def test_a_shortcut_padded_with_another_value_has_its_own_scale(parse_graph, place):
    text = """g (float[N,4,8,8] x) => (float[N,4,8,8] y)
    <float[4,4,3,3] w0, float[4,4,1,1] w1, float[4,4,1,1] w2, float one = {1.0},
     int64[8] pads = {0,0,0,0,0,0,0,0}>
    {
      r0 = Relu(x)
      c0 = Conv(r0, w1)
      p = Pad(r0, pads, one)
      s = Add(c0, p)
      y = Conv(s, w2)
    }"""
    assert place(parse_graph(text))["p"].owner.kind == "own"


def test_an_add_of_a_constant_gets_nothing(parse_graph, place):
    text = "g (float[N,32] x) => (float[N,16] y) <float[32,16] w, float[16] b> { m = MatMul(x, w) y = Add(m, b) }"
    decisions = place(parse_graph(text))
    assert set(decisions) == {"x", "w"}


def test_an_add_of_two_activations_quantizes_both_when_the_sum_is_read_quantized(
    parse_graph, place
):
    text = (
        HEAD
        + "float[4,4,1,1] w2> { a = Sigmoid(x) b = Tanh(x) s = Add(a, b) r = Relu(s) y = Conv(r, w0) }"
    )
    decisions = place(parse_graph(text))
    assert sites(decisions["a"]) == [("Add", "s", 0)]
    assert sites(decisions["b"]) == [("Add", "s", 1)]


def test_an_add_of_two_activations_stays_float_when_the_sum_is_read_in_float(parse_graph, place):
    text = HEAD + "float[4,4,1,1] w2> { a = Sigmoid(x) b = Tanh(x) y = Add(a, b) }"
    decisions = place(parse_graph(text))
    assert decisions["a"].grid is None
    assert "not read quantized everywhere" in decisions["a"].reason


def test_a_broadcast_add_does_not_count_as_residual(parse_graph, place):
    text = """g (float[N,4,8,8] x) => (float[N,4,8,8] y) <float[4,4,1,1] w>
    { c = Conv(x, w) m = GlobalAveragePool(x) y = Add(c, m) }"""
    decisions = place(parse_graph(text))
    assert decisions["m"].grid is None


def test_shape_arithmetic_is_left_alone(parse_graph, place):
    text = """g (float[N,4,8,8] x) => (int64[4] y)
    { a = Shape(x) b = Shape(x) y = Add(a, b) }"""
    assert place(parse_graph(text)) == {}
