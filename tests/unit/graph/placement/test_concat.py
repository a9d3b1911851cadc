from __future__ import annotations

import onnx

from edgeq.core.plan import FixedRange, Grid, OwnRange, SharedRange

BRANCHES = """g (float[N,4,8,8] x) => (float[N,8,8,8] y)
<float[4,4,1,1] w0, float[4,4,1,1] w1, float[8,8,1,1] w2>
{{
  a = Conv(x, w0)
  ra = {first}
  b = Conv(x, w1)
  rb = Relu(b)
  j = Concat<axis=1>(rb, ra)
  {tail}
}}"""


def test_parts_and_result_have_the_scale_of_the_part_made_first(parse_graph, place):
    model = parse_graph(BRANCHES.format(first="Relu(a)", tail="y = Conv(j, w2)"))
    decisions = place(model)
    assert decisions["ra"].owner == OwnRange()
    assert decisions["rb"].owner == SharedRange(with_tensor="ra")
    assert decisions["j"].owner == SharedRange(with_tensor="ra")


def test_parts_and_result_are_signed_if_one_part_may_be_negative(parse_graph, place):
    grids = []
    for first in ("Relu(a)", "Identity(a)"):
        text = BRANCHES.format(first=first, tail="m = Relu(j) y = Conv(j, w2)")
        text = text.replace("m = Relu(j) ", "")
        decisions = place(parse_graph(text), "w4a4", first_last_same=True)
        grids.append({decisions[name].grid for name in ("ra", "rb", "j")})
    assert grids == [{Grid(bits=4, signed=False)}, {Grid(bits=4)}]


def test_a_result_read_through_data_movement_counts(parse_graph, place):
    model = parse_graph(
        BRANCHES.format(first="Relu(a)", tail="t = MaxPool<kernel_shape=[1,1]>(j) y = Conv(t, w2)")
    )
    decisions = place(model)
    assert decisions["t"].owner == SharedRange(with_tensor="ra")
    assert decisions["rb"].grid is not None


def test_a_concat_read_in_float_stays_float(parse_graph, place):
    decisions = place(parse_graph(BRANCHES.format(first="Relu(a)", tail="y = Relu(j)")))
    assert decisions["ra"].grid is None
    assert "not read quantized everywhere" in decisions["ra"].reason


def test_a_concat_with_a_constant_part_stays_float(parse_graph, place):
    model = parse_graph("""g (float[1,4,8,8] x) => (float[1,8,8,8] y)
    <float[1,4,8,8] k, float[8,8,1,1] w>
    { r = Relu(x) j = Concat<axis=1>(r, k) y = Conv(j, w) }""")
    decisions = place(model)
    assert decisions["r"].grid is None
    assert "constant part" in decisions["r"].reason
    assert decisions["j"].owner == OwnRange()


def test_a_picture_that_shares_its_scale_with_features_loses_its_fixed_range(
    parse_graph, place, picture
):
    model = parse_graph("""g (float[N,4,8,8] x) => (float[N,8,8,8] y)
    <float[4,4,1,1] w0, float[8,8,1,1] w1>
    { c = Conv(x, w0) j = Concat<axis=1>(x, c) y = Conv(j, w1) }""")
    decisions = place(model, inputs=(picture,))
    assert decisions["x"].owner == OwnRange()
    assert not isinstance(decisions["x"].owner, FixedRange)
    assert decisions["c"].owner == SharedRange(with_tensor="x")


def test_text_beside_the_network_has_no_sign(parse_graph, place):
    model = parse_graph(
        "g (float[N,4,8,8] x) => (float[N,4,8,8] y) <float[4,4,1,1] w> { y = Conv(x, w) }"
    )
    text = onnx.helper.make_tensor("names", onnx.TensorProto.STRING, [1], [b"cat"])
    model.graph.initializer.append(text)
    model.graph.node.append(onnx.helper.make_node("Identity", ["names"], ["classes"]))
    model.graph.output.append(onnx.helper.make_tensor_value_info("classes", text.data_type, [1]))
    assert {"x", "w"} <= place(model).keys()
