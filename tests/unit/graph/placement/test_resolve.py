from __future__ import annotations

import dataclasses

import pytest

from deploy.cards import load_card
from edgeq.core.errors import EdgeqBug, TargetError
from edgeq.core.plan import FixedRange, Grid, OwnRange, QuantPlan
from edgeq.core.specs import BitSpec, Layout
from edgeq.graph.placement import RULES, plan_placement

CHAIN = """g (float[N,4,8,8] x) => (float[N,16] y)
<float[4,4,1,1] w0, float[4,4,1,1] w1, float[4,4,1,1] w2, float[4,16] w3>
{
  c0 = Conv(x, w0)
  r0 = Relu(c0)
  c1 = Conv(r0, w1)
  r1 = {middle}
  c2 = Conv(r1, w2)
  r2 = Relu(c2)
  p = GlobalAveragePool(r2)
  f = Flatten(p)
  y = Gemm(f, w3)
}"""


def chain(middle: str = "Relu(c1)") -> str:
    return CHAIN.replace("{middle}", middle)


def test_first_and_last_layer_have_8_bits_and_the_rest_what_was_asked(parse_graph, place):
    decisions = place(parse_graph(chain()), "w3a4")
    widths = {name: decisions[name].grid.bits for name in ("w0", "w1", "w2", "w3")}
    assert widths == {"w0": 8, "w1": 3, "w2": 3, "w3": 8}
    assert decisions["w0"].reason.endswith("8 bits: first layer")
    assert decisions["w3"].reason.endswith("8 bits: last layer")


def test_what_leads_to_the_last_layer_through_pooling_has_8_bits_too(parse_graph, place):
    decisions = place(parse_graph(chain()), "w4a4")
    widths = {name: decisions[name].grid.bits for name in ("r1", "r2", "f")}
    assert widths == {"r1": 4, "r2": 8, "f": 8}


def test_what_the_first_layer_takes_and_makes_has_8_bits(parse_graph, place):
    decisions = place(parse_graph(chain()), "w4a4")
    widths = {name: decisions[name].grid.bits for name in ("x", "r0", "r1")}
    assert widths == {"x": 8, "r0": 8, "r1": 4}
    assert decisions["r0"].reason.endswith("8 bits: the first layer makes it")


def test_shape_arithmetic_and_constants_leave_a_tensor_to_the_first_layer(parse_graph, place):
    model = parse_graph("""g (float[N,4,8,8] x) => (float[N,64,4] y)
    <float[4,4,1,1] w0, float[4,4] w1, float[4,4] w2, float[4] position,
     int64[1] zero = {0}, int64[2] rest = {64,4}>
    {
      c = Conv(x, w0)
      s = Shape(x)
      n = Gather(s, zero)
      t = Concat<axis=0>(n, rest)
      f = Reshape(c, t)
      p = Add(f, position)
      h = MatMul(p, w1)
      r = Relu(h)
      y = MatMul(r, w2)
    }""")
    decisions = place(model, "w4a4")
    assert decisions["p"].grid.bits == 8


def test_what_a_later_layer_is_added_to_is_no_longer_made_by_the_first(parse_graph, place):
    model = parse_graph("""g (float[N,4,8,8] x) => (float[N,4,8,8] y)
    <float[4,4,1,1] w0, float[4,4,1,1] w1, float[4,4,1,1] w2, float[4,4,1,1] w3>
    {
      c = Conv(x, w0)
      r = Relu(c)
      m = MaxPool<kernel_shape=[1,1]>(r)
      a = Conv(m, w1)
      s = Add(a, m)
      t = Relu(s)
      b = Conv(t, w2)
      y = Conv(b, w3)
    }""")
    decisions = place(model, "w4a4")
    assert (decisions["m"].grid.bits, decisions["t"].grid.bits) == (8, 4)


def test_first_last_same_gives_every_layer_the_same_width(parse_graph, place):
    decisions = place(parse_graph(chain()), "w4a4", first_last_same=True)
    assert {decision.grid.bits for decision in decisions.values() if decision.grid} == {4}


def test_a_picture_has_8_bits_whatever_was_asked(parse_graph, place, picture):
    decisions = place(parse_graph(chain()), "w4a4", inputs=(picture,), first_last_same=True)
    assert decisions["x"].grid == Grid(bits=8)


def test_a_picture_input_has_the_range_of_its_legal_box(parse_graph, place, picture):
    decision = place(parse_graph(chain()), inputs=(picture,))["x"]
    assert decision.owner == FixedRange(amax=2.0)
    assert decision.rule == "network input"


def test_an_input_that_is_no_picture_has_a_range_of_its_own(parse_graph, place, picture):
    other = dataclasses.replace(picture, layout=Layout.OTHER)
    assert place(parse_graph(chain()), inputs=(other,))["x"].owner == OwnRange()


def test_a_transposed_picture_keeps_its_known_range(parse_graph, place, picture):
    model = parse_graph("""g (float[N,8,8,4] x) => (float[N,6,8,8] y) <float[6,4,1,1] w>
    { t = Transpose<perm=[0,3,1,2]>(x) y = Conv(t, w) }""")
    assert place(model, inputs=(picture,))["t"].owner == FixedRange(amax=2.0)


@pytest.mark.parametrize(
    ("middle", "signed"),
    [
        ("Relu(c1)", False),
        ("Clip(c1, zero, six)", False),
        ("Clip(c1, low, six)", True),
        ("Clip(c1)", True),
        ("Sigmoid(c1)", False),
        ("Identity(c1)", True),
        ("Identity(r0)", False),
        ("Mul(r0, r0)", False),
        ("Mul(r0, low)", True),
        ("Tanh(c1)", True),
        ("LeakyRelu(c1)", True),
    ],
)
def test_below_8_bits_a_tensor_is_unsigned_only_if_it_cannot_be_negative(
    parse_graph, place, middle, signed
):
    text = chain(middle).replace(
        "<float[4", "<float zero = {0}, float six = {6}, float low = {-1}, float[4", 1
    )
    decision = place(parse_graph(text), "w4a4", first_last_same=True)["r1"]
    assert decision.grid == Grid(bits=4, signed=signed)


@pytest.mark.parametrize(("mode", "signed"), [("linear", False), ("cubic", True)])
def test_a_resized_tensor_is_unsigned_unless_the_filter_overshoots(
    parse_graph, place, mode, signed
):
    middle = f'Resize<mode="{mode}">(r0, , scales)'
    text = chain(middle).replace("<float[4", "<float[4] scales = {1,1,2,2}, float[4", 1)
    decision = place(parse_graph(text), "w4a4", first_last_same=True)["r1"]
    assert decision.grid.signed is signed


def test_a_tensor_read_by_an_inner_and_by_the_last_layer_has_the_asked_width(parse_graph, place):
    model = parse_graph("""g (float[N,4,8,8] x) => (float[N,4,8,8] y)
    <float[4,4,1,1] w0, float[4,4,1,1] w1, float[4,4,1,1] w2, float[4,4,1,1] w3, float[4,4,1,1] w4>
    {
      i = Conv(x, w4)
      c = Conv(i, w0)
      r = Relu(c)
      a = Conv(r, w1)
      b = Conv(a, w2)
      z = Conv(r, w3)
      y = Add(b, z)
    }""")
    decision = place(model, "w8a4")["r"]
    assert decision.grid.bits == 4
    assert "not only the first or last layer reads it" in decision.reason


def test_shape_arithmetic_makes_no_layer_first_or_last(parse_graph, place):
    model = parse_graph("""g (float[2,4,1,1] x) => (float[2,4] y)
    <float[4,4,1,1] w0, float[4,4,1,1] w1, float[4,4] w2,
     int64[1] zero = {0}, int64[1] rest = {-1}>
    {
      c0 = Conv(x, w0)
      c1 = Conv(c0, w1)
      s = Shape(x)
      n = Gather(s, zero)
      t = Concat<axis=0>(n, rest)
      f = Reshape(c1, t)
      m = MatMul(f, w2)
      y = Reshape(m, t)
    }""")
    decisions = place(model, "w4a4")
    assert decisions["w1"].grid.bits == 4
    assert "first" not in decisions["w2"].reason


def test_graph_outputs_are_never_quantized(parse_graph, place):
    for decision in place(parse_graph(chain())).values():
        assert decision.tensor != "y"


def test_decisions_stand_in_graph_order_and_survive_json(parse_graph):
    card = load_card("jetson-orin")
    plan = plan_placement(parse_graph(chain()), card=card, bits=BitSpec.parse("w4a8"), inputs=())
    order = [decision.tensor for decision in plan.decisions]
    assert order == ["x", "w0", "r0", "w1", "r1", "w2", "r2", "p", "f", "w3"]
    assert QuantPlan.from_dict(plan.to_dict()) == plan


def test_every_decision_names_a_registered_rule_and_a_reason(parse_graph, place):
    known = {*RULES.names(), "bias", "network input"}
    for decision in place(parse_graph(chain())).values():
        assert decision.rule in known
        assert decision.reason


def test_a_target_without_int8_is_refused(parse_graph):
    card = dataclasses.replace(load_card("jetson-orin"), name="jetson-tx2", formats=())
    with pytest.raises(TargetError, match="no INT8 arithmetic") as caught:
        plan_placement(parse_graph(chain()), card=card, bits=BitSpec.parse("w8a8"), inputs=())
    assert "`edgeq targets`" in caught.value.mend


def test_a_model_without_inferred_types_is_our_own_bug(parse_graph, place):
    with pytest.raises(EdgeqBug, match="'c0' has none"):
        place(parse_graph(chain(), check=False))
