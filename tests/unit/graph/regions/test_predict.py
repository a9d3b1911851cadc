from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import onnx
import pytest

from deploy.cards import load_card
from edgeq.core.errors import ModelError
from edgeq.graph.regions import Kind, Region, predict_regions

ORIN, NEWEST = load_card("jetson-orin"), load_card("rtx-4090")
PARAMETERS = """float s = {0.1}, int8 z = {0}, float t = {0.2}, float[4] sw = {0.1, 0.2, 0.3, 0.4},
 int8[4] zw = {0, 0, 0, 0}, int8[4,4,1,1] k, int8[4,4,1,1] l, int8[4,1,1,1] m, float[4,4,1,1] w, float[4] b"""


def pair(tensor: str, scale: str = "s") -> str:
    return f"{tensor}q = QuantizeLinear({tensor}, {scale}, z) {tensor}d = DequantizeLinear({tensor}q, {scale}, z) "


WEIGHTS = "kd = DequantizeLinear<axis=0>(k, sw, zw) ld = DequantizeLinear<axis=0>(l, sw, zw) "
X = pair("x") + WEIGHTS


def graph(body: str, *, more: str = "", output: str = "float[N,4,8,8] y") -> str:
    extra = f", {more}" if more else ""
    return f"g (float[N,4,8,8] x) => ({output}) <{PARAMETERS}{extra}> {{ {body} }}"


def ending(tensor: str) -> str:
    """Return a quantized reader of `tensor`, which gives the network's output."""
    return pair(tensor) + f"y = Conv({tensor}d, ld)"


@dataclass(frozen=True)
class Case:
    """A body behind the quantized input `xd`, and the region that holds its node `of`: operators and precision."""

    name: str
    body: str
    of: str
    ops: str
    precision: str = "int8"
    output: str = "float[N,4,8,8] y"


DEPTHWISE = "md = DequantizeLinear<axis=0>(m, sw, zw) "
ANY = "fp16 or fp32"
CASES = [
    Case("conv-bias-relu", "c = Conv(xd, kd, b) r = Relu(c) " + ending("r"), "c", "Conv+Relu"),
    Case("no-q-behind", "c = Conv(xd, kd) y = Relu(c)", "c", "Conv+Relu", f"int8 in, {ANY} out"),
    Case("a-second-float-reader", "c = Conv(xd, kd) " + pair("c") + "e = Conv(cd, ld) y = Sub(c, e)",
         "c", "Conv", f"int8 in, {ANY} out"),
    Case("residual", "c = Conv(xd, kd) a = Add(c, xd) r = Relu(a) " + ending("r"), "c", "Conv+Add+Relu"),
    Case("float-shortcut", "c = Conv(xd, kd) a = Add(c, x) " + ending("a"), "c", "Conv", f"int8 in, {ANY} out"),
    Case("branch-read-twice", "c = Conv(xd, kd) a = Add(c, xd) n = Neg(c) f = Add(a, n) " + ending("f"),
         "c", "Conv", f"int8 in, {ANY} out"),
    Case("silu", "c = Conv(xd, kd) g = Sigmoid(c) p = Mul(c, g) " + ending("p"), "p", "Conv+Sigmoid+Mul"),
    Case("squeeze-and-excite-gate", "c = Conv(xd, kd) g = Sigmoid(c) p = Mul(x, g) " + ending("p"),
         "c", "Conv+Sigmoid", f"int8 in, {ANY} out"),
    Case("hardswish", "c = Conv(xd, kd) h = HardSwish(c) " + ending("h"), "h", "Conv+HardSwish"),
    Case("depthwise-relu", DEPTHWISE + "c = Conv<group=4>(xd, md) r = Relu(c) " + ending("r"),
         "c", "Conv+Relu"),
    Case("depthwise-hardswish", DEPTHWISE + "c = Conv<group=4>(xd, md) h = HardSwish(c) "
         + ending("h"), "c", "Conv", f"int8 in, {ANY} out"),
    Case("max-pool", "c = Conv(xd, kd) r = Relu(c) p = MaxPool<kernel_shape=[1,1]>(r) " + ending("p"),
         "c", "Conv+Relu+MaxPool"),
    Case("lone-max-pool", "p = MaxPool<kernel_shape=[1,1]>(xd) " + ending("p"), "p", "MaxPool"),
    Case("average-pool", "p = AveragePool<kernel_shape=[1,1]>(xd) " + ending("p"), "p", "AveragePool"),
    Case("average-pool-to-float", "p = AveragePool<kernel_shape=[1,1]>(xd) y = Neg(p)", "p", "AveragePool", ANY),
    Case("plain-add", "a = Add(xd, xd) r = Relu(a) " + ending("r"), "a", "Add+Relu"),
    Case("resize", "e = Resize(xd, , f) " + ending("e"), "e", "Resize"),
    Case("concat-of-one-scale", "j = Concat<axis=2>(xd, xd) " + ending("j"), "j", "Concat", output="float[N,4,16,8] y"),
    Case("concat-of-two-scales", "r = Relu(x) " + pair("r", "t") + "j = Concat<axis=2>(xd, rd) " + ending("j"),
         "j", "Concat", ANY, output="float[N,4,16,8] y"),
    Case("transpose", "e = Transpose<perm=[0,1,3,2]>(xd) " + ending("e"), "e", "Transpose"),
    Case("float-conv", "c = Conv(x, w) r = Relu(c) y = Neg(r)", "c", "Conv+Relu", ANY),
    Case("float-residual", "c = Conv(x, w) y = Add(c, x)", "c", "Conv+Add", ANY),
    Case("one-operand", "y = Conv(xd, w)", "y", "Conv", ANY),
    Case("pointwise-group", "e = Exp(x) l1 = Log(e) p = Mul(l1, e) y = Neg(p)", "e", "Exp+Log+Mul+Neg", ANY),
    Case("softmax", "e = Exp(x) y = Softmax(e)", "y", "Softmax", ANY),
]  # fmt: skip


def find(regions: tuple[Region, ...], node: str) -> Region:
    (region,) = [item for item in regions if node in item.nodes]
    return region


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_documented_pattern_is_one_region(parse_graph, case):
    more = "float[4] f = {1, 1, 1, 1}" if "f)" in case.body and "Resize" in case.body else ""
    model = parse_graph(graph(X + case.body, more=more, output=case.output))
    region = find(predict_regions(model, ORIN), case.of)
    assert (region.ops, region.precision) == (case.ops, case.precision)
    assert region.reason


def conversions(model: onnx.ModelProto) -> list[tuple[str, str]]:
    return [
        (item.nodes[0], item.precision)
        for item in predict_regions(model, ORIN)
        if item.kind is Kind.CONVERSION
    ]


def test_only_the_input_is_converted_where_int8_goes_through(parse_graph):
    model = parse_graph(graph(X + "c = Conv(xd, kd) r = Relu(c) " + ending("r")))
    assert conversions(model) == [("xq", "fp32 to int8")]


def test_a_float_island_costs_a_conversion_on_both_sides(parse_graph):
    body = "c = Conv(xd, kd) " + pair("c") + "n = Softmax(cd) " + ending("n")
    assert conversions(parse_graph(graph(X + body))) == [
        ("xq", "fp32 to int8"),
        ("cd", f"int8 to {ANY}"),
        ("nq", f"{ANY} to int8"),
    ]


def test_codes_of_another_scale_are_converted_and_equal_ones_cancel(parse_graph):
    for scale, expected in (("s", ["xq"]), ("t", ["xq", "xd", "xdq"])):
        model = parse_graph(graph(X + pair("xd", scale) + "y = Conv(xdd, kd)"))
        assert [node for node, _ in conversions(model)] == expected


def test_a_pair_of_one_scale_in_two_places_is_converted_once(parse_graph):
    body = (
        "e = QuantizeLinear(x, s, z) ed = DequantizeLinear(e, s, z) c = Conv(ed, kd) y = Add(c, xd)"
    )
    assert [node for node, _ in conversions(parse_graph(graph(X + body)))] == ["xq"]


def test_a_pointwise_group_closes_no_circle(parse_graph):
    body = "e = Exp(x) c = Conv(e, w) n = Neg(c) p = Mul(n, e) y = Softmax(p)"
    regions = predict_regions(parse_graph(graph(X + body)), ORIN)
    assert find(regions, "e") != find(regions, "p")


def test_what_is_not_quantized_has_the_type_that_stands_in_the_file(parse_graph):
    strong = dataclasses.replace(NEWEST, weak_typing=False)
    region = find(predict_regions(parse_graph(graph("y = Softmax(x)")), strong), "y")
    assert region.precision == "fp32"
    half = parse_graph(
        """<ir_version: 9, opset_import: ["" : 19]> g (float16[N,4] x) => (float16[N,4] y)
        { y = Softmax(x) }"""
    )
    assert find(predict_regions(half, strong), "y").precision == "fp16"


def test_weights_of_four_bits_leave_the_product_in_float(parse_graph):
    model = parse_graph(
        """<ir_version: 10, opset_import: ["" : 21]> g (float[N,128] x) => (float[N,8] y)
        <int4[128,8] m, float[2,8] sm, int4[2,8] zm>
        { md = DequantizeLinear<axis=0, block_size=64>(m, sm, zm) y = MatMul(x, md) }"""
    )
    (region,) = predict_regions(model, NEWEST)
    assert region.precision.endswith("with int4 weights")


def test_codes_of_16_bits_have_no_prediction(parse_graph):
    model = parse_graph(
        """<ir_version: 10, opset_import: ["" : 21]> g (float[N,4] x) => (float[N,4] y)
        <float s = {0.1}, int16 z = {0}>
        { q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z) y = Relu(d) }"""
    )
    with pytest.raises(ModelError, match="QuantizeLinear 'q' has INT16 codes"):
        predict_regions(model, ORIN)


def test_another_runtime_has_no_prediction(parse_graph):
    assert predict_regions(parse_graph(graph("y = Relu(x)")), load_card("cpu")) == ()


def test_a_region_has_a_plain_form_that_can_be_read_back(parse_graph):
    for region in predict_regions(parse_graph(graph(X + "y = Conv(xd, kd)")), ORIN):
        assert Region.from_dict(region.to_dict()) == region
