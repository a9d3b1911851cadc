from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
import onnx
import pytest

from deploy.cards import load_card
from edgeq.core.specs import TargetCard
from edgeq.graph.lint import CHECKS, Finding, Severity, lint

CARD = load_card("jetson-orin")
XAVIER = load_card("jetson-xavier")
STRONG = load_card("rtx-4090")

PARAMETERS = """float s = {0.1}, int8 z = {0}, float t = {0.2}, float[4] sw = {0.1, 0.2, 0.3, 0.4},
 int8[4] zw = {0, 0, 0, 0}, int8[4,4,1,1] k, float[4,4,1,1] w, float[4] b"""


def graph(body: str, parameters: str = "", *, output: str = "float[N,4,8,8] y") -> str:
    extra = f", {parameters}" if parameters else ""
    return f"g (float[N,4,8,8] x) => ({output}) <{PARAMETERS}{extra}> {{ {body} }}"


def pair(tensor: str, *, scale: str = "s") -> str:
    name = f"{scale}, z"
    return f"{tensor}q = QuantizeLinear({tensor}, {name}) {tensor}d = DequantizeLinear({tensor}q, {name}) "


X = pair("x")
K = "kd = DequantizeLinear<axis=0>(k, sw, zw) "
CONV = X + K + "c = Conv(xd, kd) "
GOOD = graph(X + K + "c = Conv(xd, kd, b) y = Relu(c)")
WEIGHT_PAIR = "wq = QuantizeLinear<axis=0>(w, sw, zw) wd = DequantizeLinear<axis=0>(wq, sw, zw) "


@dataclass(frozen=True)
class Case:
    check: str
    bad: str
    good: str = GOOD
    words: str = ""
    card: TargetCard = CARD


# FP16 values are written as their bits: 168 is 1e-5, 5145 is 1e-3.
HALF = """<ir_version: 9, opset_import: ["" : 19]> g (float16[N,4] x) => (float16[N,4] y)
 <float16 s = {SCALE}, int8 z = {0}> { q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z) y = Relu(d) }"""
MIXED = """<ir_version: 11, opset_import: ["" : 23]> g (float16[N,4] x) => (FLOAT[N,4] y)
 <FLOAT s = {0}, int8 z = {0}> { q = QuantizeLinear(x, s, z) y = DequantizeLinear(q, s, z) }"""
HALF_CONV = """<ir_version: 9, opset_import: ["" : 19]> g
 (float16[N,4,8,8] a, float[N,4,8,8] ad) => (float16[N,4,8,8] y, float16[N,4,8,8] w)
 <float16[4,4,1,1] k, float[4,4,1,1] kd> { y = Conv(a, k) c = Conv(PAIR) w = Cast<to=10>(c) }"""
# Weights in blocks of 64 along the axis that is summed over.
INT4 = """<ir_version: 10, opset_import: ["" : 21]> g (float[N,256] f) => (float[N,8] y)
 <int4[256,8] m, float[4,8] sm, int4[4,8] zm>
 { md = DequantizeLinear<axis=0, block_size=64>(m, sm, zm) y = MatMul(f, md) }"""
INT4_CHANNELS = """<ir_version: 10, opset_import: ["" : 21]> g (float[N,256] f) => (float[N,8] y)
 <int4[256,8] m, float[LENGTH] sm, int4[LENGTH] zm> { md = DequantizeLinear<axis=1>(m, sm, zm) y = MatMul(f, md) }"""
INT4_CONV = """<ir_version: 10, opset_import: ["" : 21]> g (float[N,4,8,8] x) => (float[N,4,8,8] y)
 <int4[4,4,1,1] k4, float[4] sw = {0.1, 0.2, 0.3, 0.4}, int4[4] z4>
 { kd = DequantizeLinear<axis=0>(k4, sw, z4) y = Conv(x, kd) }"""

INNER = """g (float[N,4,8,8] x, bool c) => (float[N,4,8,8] y) <float s = {0.1}, int8 z = {0}>
 { y = If(c) <then_branch = t () => (float[N,4,8,8] a) { BODY },
              else_branch = e () => (float[N,4,8,8] f) { f = Relu(x) }> }"""
INNER_FLOAT = INNER.replace("BODY", "a = Relu(x)")


def edit(old: str, new: str, *, text: str = GOOD) -> str:
    assert old in text
    return text.replace(old, new)


CAST_ZERO = edit("(x, s, z)", "(x, s, zc)", text=edit("xq =", "zc = Cast<to=3>(n) xq ="))
CAST_ZERO = CAST_ZERO.replace("<float s", "<int32 n = {0}, float s")

CASES = [
    Case("model.opset", '<ir_version: 10, opset_import: ["" : 21]> ' + GOOD, words="13..20"),
    Case("model.ir-version", '<ir_version: 11, opset_import: ["" : 17]> ' + GOOD),
    Case(
        "model.domain",
        '<ir_version: 8, opset_import: ["" : 17, "mine" : 1]> ' + edit("Relu", "mine.Relu"),
        words="mine",
    ),
    Case("model.operator", edit("y = Relu(c)", "y, a1, a2 = DynamicQuantizeLinear(c)")),
    Case(
        "model.operator",
        INNER.replace("BODY", "q, t, v = DynamicQuantizeLinear(x) a = DequantizeLinear(q, t, v)"),
        good=INNER_FLOAT,
    ),
    Case(
        "model.inner-graph",
        INNER.replace("BODY", "q = QuantizeLinear(x, s, z) a = DequantizeLinear(q, s, z)"),
        good=INNER_FLOAT,
        words="2 Q/DQ nodes in the inner graph 't'",
    ),
    Case("model.checker", edit("Relu", "NoSuchOperator")),
    Case("model.checker", edit("Relu(c)", "MatMul(c, b)"), words="nfer"),
    Case(
        "model.shapes",
        graph(X + K + "c = Conv(xd, kd) n = NonZero(c) r = Reshape(c, n) y = Relu(r)", output="float[N,4,8,8] y"),
    ),
    Case("model.dynamic-shape", GOOD.replace("float[N,4,8,8] x", "float[N,4,H,W] x"), words="'x'"),
    Case("model.duplicate-name", edit("c = Conv", "[n] c = Conv", text=edit("y = Relu", "[n] y = Relu"))),
    Case("qdq.inputs", edit("QuantizeLinear(x, s, z)", "QuantizeLinear(x, s)"), words="2 inputs"),
    Case(
        "qdq.inputs",
        edit("QuantizeLinear(x, s, z)", "QuantizeLinear(x, s, )"),
        good=INT4.replace("(m, sm, zm)", "(m, sm)"),
        words="2 inputs",
    ),
    Case("qdq.zero-point", edit("int8 z = {0}", "int8 z = {3}"), words="not 0"),
    Case(
        "qdq.zero-point",
        edit("QuantizeLinear(x, s, z)", "QuantizeLinear(x, s, zc)", text=edit("xq =", "zc = Neg(z) xq =")),
        words="computed",
    ),
    Case(
        "qdq.zero-point",
        CAST_ZERO.replace("{0}", "{3}", 1),
        good=CAST_ZERO,
        words="'zc' is not 0",
    ),
    Case("qdq.zero-point-shape", edit("int8[4] zw = {0, 0, 0, 0}", "int8[1] zw = {0}")),
    Case("qdq.type", edit("int8 z = {0}", "uint8 z = {0}"), words="UINT8"),
    Case(
        "qdq.bias",
        graph(
            X + K + "bd = DequantizeLinear<axis=0>(b32, sw, zb) y = Conv(xd, kd, bd)",
            "int32[4] b32, int32[4] zb = {0, 0, 0, 0}",
        ),
        words="b32",
    ),
    Case("qdq.scale-constant", edit("(x, s, z)", "(x, sc, z)", text=edit("xq =", "sc = Abs(s) xq ="))),
    Case("qdq.scale-positive", edit("0.2, 0.3", "0.0, 0.3")),
    Case("qdq.scale-positive", edit("float s = {0.1}", "float s = {-0.1}")),
    Case("qdq.scale-shape", edit("<axis=0>", "<axis=4>"), words="axis 4"),
    Case("qdq.scale-shape", edit("int8[4,4,1,1] k", "int8[6,4,1,1] k"), words="length 6"),
    Case(
        "qdq.scale-shape",
        edit("float[4] sw = {0.1, 0.2, 0.3, 0.4}", "float[2,2] sw = {1, 1, 1, 1}"),
        words="2 axes",
    ),
    Case(
        "qdq.scale-shape",
        INT4_CHANNELS.replace("LENGTH", "4"),
        good=INT4_CHANNELS.replace("LENGTH", "8"),
        words="4 scales for an axis of length 8",
    ),
    Case("qdq.axis", edit("<axis=0>", "")),
    Case(
        "qdq.per-channel-activation",
        edit("QuantizeLinear(x, s, z)", "QuantizeLinear<axis=1>(x, sw, zw)"),
        good=graph(X + WEIGHT_PAIR + "y = Conv(xd, wd)"),
        words="'x'",
    ),
    Case("qdq.channel-axis", edit("<axis=0>", "<axis=1>"), words="needs 0"),
    Case(
        "qdq.channel-axis",
        graph(X + K + "y = ConvTranspose(xd, kd)"),
        good=graph(X + K.replace("<axis=0>", "<axis=-3>") + "y = ConvTranspose(xd, kd)"),
        words="needs 1",
    ),
    Case(
        "qdq.scalar-data",
        graph(X + K + "sq = QuantizeLinear(t, s, z) sd = DequantizeLinear(sq, s, z) c = Conv(xd, kd) y = Mul(c, sd)"),
    ),
    Case("qdq.scalar-data", edit("int8[4,4,1,1] k", "int8 k = {1}"), words="'k'"),
    Case("qdq.pair-scale", edit("DequantizeLinear(xq, s, z)", "DequantizeLinear(xq, t, z)")),
    Case(
        "qdq.q-reader",
        graph(CONV + "m = MaxPool<kernel_shape=[1,1]>(xq) d = DequantizeLinear(m, s, z) y = Add(c, d)"),
        words="MaxPool",
    ),
    Case("qdq.unread", edit("y = Relu", "u = DequantizeLinear(xq, s, z) y = Relu")),
    Case(
        "qdq.requantize",
        graph(X + pair("xd", scale="t") + K + "y = Conv(xdd, kd)"),
        good=graph(X + pair("xd") + K + "y = Conv(xdd, kd)"),
    ),
    Case(
        "qdq.weight-path",
        edit("Conv(xd, kd, b)", "Conv(xd, kt, b)", text=edit("c =", "kt = Transpose<perm=[1,0,2,3]>(kd) c =")),
        words="Transpose",
    ),
    Case("fusion.both-operands", edit("Conv(xd, kd", "Conv(x, kd"), words="only the weight"),
    Case("fusion.both-operands", edit("Conv(xd, kd", "Conv(xd, w"), words="only the activation"),
    Case(
        "fusion.epilogue",
        graph(CONV + pair("c") + "y = Relu(cd)"),
        good=graph(CONV + "r = Relu(c) " + pair("r") + "y = Conv(rd, kd)"),
    ),
    Case(
        "fusion.epilogue",
        graph(CONV + "a = Sigmoid(c) " + pair("a") + "y = Mul(c, ad)"),
        good=graph(CONV + "a = Sigmoid(x) " + pair("a") + "y = Mul(c, ad)"),
        words="x * Sigmoid(x)",
    ),
    Case(
        "model.unsupported-form",
        edit("y = Relu(c)", "y, i = MaxPool<kernel_shape=[1,1]>(c)"),
        good=edit("y = Relu(c)", "y = MaxPool<kernel_shape=[1,1]>(c)"),
        words="indices",
    ),
    Case(
        "model.unsupported-form",
        edit("y = Relu(c)", "y = MaxPool<kernel_shape=[2,2],dilations=[2,2],pads=[1,1,1,1]>(c)"),
        words="dilated",
    ),
    Case(
        "model.unsupported-form",
        '<ir_version: 8, opset_import: ["" : 18]> '
        + graph(X + "y = Resize<antialias=1,mode=\"linear\">(x, , f)", "float[4] f = {1, 1, 2, 2}"),
        good=edit("Relu(c)", "Resize(c, , f)", text=GOOD.replace("<float s", "<float[4] f = {1, 1, 1, 1}, float s")),
        words="antialiasing",
    ),
    Case(
        "model.unsupported-form",
        graph("a = Shape(x) m = ReduceSum(x, a) y = Add(x, m)"),
        good=graph("m = ReduceSum(x, a) y = Add(x, m)", "int64[1] a = {1}"),
        words="computed axes",
    ),
    Case(
        "model.gemm-factors",
        graph("f = Flatten(x) y = Gemm<alpha=2.0>(f, m)", "float[256,8] m", output="float[N,8] y"),
        good=graph("f = Flatten(x) y = Gemm(f, m)", "float[256,8] m", output="float[N,8] y"),
        words="alpha 2.0",
    ),
    Case(
        "model.int64",
        graph("y = Slice(x, from, to)", "int64[1] from = {0}, int64[1] to = {9223372036854775807}"),
        good=graph("y = Slice(x, from, to)", "int64[1] from = {0}, int64[1] to = {2147483647}"),
        card=XAVIER,
    ),
    Case("target.int8", GOOD, graph("y = Relu(x)"), "jetson-nano", card=load_card("jetson-nano")),
    Case("qdq.prequantized-weight", GOOD, graph(X + WEIGHT_PAIR + "y = Conv(xd, wd)"), "'k'", card=XAVIER),
    Case(
        "qdq.scale-half",
        HALF.replace("SCALE", "168"),
        good=HALF.replace("SCALE", "5145"),
    ),
    Case("typing.scale", MIXED.replace("FLOAT", "float"), good=MIXED.replace("FLOAT", "float16"), words="FLOAT16"),
    Case("typing.float32-graph", GOOD, good=HALF.replace("SCALE", "5145"), words="FP32", card=STRONG),
    Case("typing.float32-kernel", HALF_CONV.replace("PAIR", "ad, kd"), HALF_CONV.replace("PAIR", "a, k"), "FP32"),
    Case("qdq.packed-reader", INT4_CONV, good=INT4, words="Conv"),
    Case("qdq.packed-reader", INT4.replace("MatMul(f, md)", "Add(f, md)"), good=INT4, words="Add"),
    Case("model.opset-int4", INT4, GOOD, "documents up to 20"),
    Case("qdq.packed-shape", INT4.replace("[256,8]", "[255,1]").replace("[4,8]", "[5,1]"), INT4, "odd"),
    Case("qdq.packed-shape", INT4.replace("[4,8]", "[3,8]"), good=INT4, words="do not divide"),
    Case("qdq.packed-shape", INT4.replace("[4,8]", "[4,4]"), good=INT4, words="2 blocked axes"),
    Case("qdq.packed-block", INT4.replace("[4,8]", "[16,8]").replace("=64", "=16"), INT4, "blocks of 16"),
    Case("qdq.type", INT4, good=GOOD, words="INT4", card=XAVIER),
    Case(
        "qdq.two-origins",
        edit("y = Relu(c)", "xr = QuantizeLinear(x, t, z) xe = DequantizeLinear(xr, t, z) y = Add(c, xe)"),
        good=edit("y = Relu(c)", "y = Add(c, xd)"),
    ),
    Case(
        "fusion.concat",
        graph(X + "p = Relu(x) " + pair("p", scale="t") + "y = Concat<axis=1>(xd, pd)", output="float[N,8,8,8] y"),
        good=graph(X + "p = Relu(x) " + pair("p") + "y = Concat<axis=1>(xd, pd)", output="float[N,8,8,8] y"),
    ),
    Case("fusion.output", graph("q = QuantizeLinear(x, s, z) y = DequantizeLinear(q, s, z)")),
    Case("fusion.residual", graph(CONV + "y = Add(c, x)"), graph(CONV + "y = Add(c, xd)"), "neither"),
    Case("fusion.residual", graph(CONV + pair("c") + "y = Add(cd, xd)"), words="both operands"),
    Case("fusion.residual", graph(CONV + pair("c") + "y = Add(cd, x)"), words="own output"),
    Case(
        "fusion.residual",
        graph(CONV + "r = Relu(c) a = Add(c, xd) y = Add(a, r)"),
        words="second reader",
    ),
    Case(
        "fusion.residual",
        graph(CONV + "e = Conv(xd, kd) " + pair("c") + pair("e") + "y = Add(cd, ed)"),
        good=graph(CONV + "e = Conv(xd, kd) " + pair("e") + "y = Add(c, ed)"),
    ),
]  # fmt: skip


def ids(findings: tuple[Finding, ...]) -> set[str]:
    return {finding.check for finding in findings}


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.check}-{case.words}")
def test_a_check_finds_its_fault_and_nothing_in_a_sound_graph(parse_graph, case):
    found = lint(parse_graph(case.bad, check=False), case.card)
    of_case = [finding for finding in found if finding.check == case.check]
    assert of_case, found
    assert case.words in of_case[0].what
    assert case.check not in ids(lint(parse_graph(case.good), case.card))


def test_external_data_that_were_not_loaded_are_all_that_is_told(parse_graph, tmp_path):
    path = tmp_path / "model.onnx"
    onnx.save(
        parse_graph(GOOD), path, save_as_external_data=True, location="model.data", size_threshold=0
    )
    found = lint(onnx.load(path, load_external_data=False), CARD)
    assert [finding.check for finding in found] == ["model.external-data"]
    assert "model.external-data" not in ids(lint(onnx.load(path), CARD))


def test_every_check_has_a_case():
    ours = {name for name in CHECKS.names() if CHECKS.get(name).runtime == CARD.runtime}
    assert {case.check for case in CASES} | {"model.external-data"} == ours


def test_a_sound_graph_has_no_findings(parse_graph):
    assert lint(parse_graph(GOOD), CARD) == ()


def test_a_float_graph_has_no_findings(parse_graph):
    assert lint(parse_graph(graph("c = Conv(x, w, b) r = Relu(c) y = Add(c, r)")), CARD) == ()


def test_shapes_behind_a_slice_of_computed_bounds_are_known(parse_graph):
    """As torch.onnx.export(dynamo=False) writes attention: ONNX's inference computes no Mod."""
    model = parse_graph(
        """g (float[2,4,6] x) => (float[2,4] y)
        <int64[1] minus = {-1}, int64[1] rank = {3}, int64[1] zero = {0}, int64[2] parts = {2,3}>
        { s = Shape(x) a = Add(minus, rank) end = Mod(a, rank) head = Slice(s, zero, end)
          sizes = Concat<axis=0>(head, parts) r = Reshape(x, sizes) y = ReduceMean<axes=[2,3],keepdims=0>(r) }""",
        check=False,
    )
    assert not lint(model, CARD)


def test_errors_stand_before_warnings(parse_graph):
    text = GOOD.replace("float[N,4,8,8] x", "float[N,4,H,W] x").replace(
        "int8 z = {0}", "int8 z = {3}"
    )
    found = [finding.severity for finding in lint(parse_graph(text, check=False), CARD)]
    assert found == sorted(found, key=lambda severity: severity is Severity.WARNING)
    assert set(found) == set(Severity)


def test_a_finding_has_a_plain_form_that_can_be_read_back(parse_graph):
    (finding,) = lint(parse_graph(edit("float s = {0.1}", "float s = {-0.1}")), CARD)[:1]
    assert Finding.from_dict(finding.to_dict()) == finding
    assert finding.why
    assert finding.mend


def test_the_targets_limits_come_from_its_card(parse_graph):
    model = parse_graph(GOOD, opset=13)
    assert "model.opset" not in ids(lint(model, CARD))
    newer = dataclasses.replace(CARD, opset_min=19)
    assert "model.opset" in ids(lint(model, newer))


def test_a_scale_that_is_not_a_number_is_found(parse_graph):
    text = GOOD.replace("float s = {0.1}", "float s")
    found = lint(parse_graph(text, s=np.float32(np.nan)), CARD)
    assert "qdq.scale-positive" in ids(found)


def test_a_scale_of_text_is_found(parse_graph):
    model = parse_graph(GOOD)
    (scale,) = [item for item in model.graph.initializer if item.name == "s"]
    scale.CopyFrom(onnx.helper.make_tensor("s", onnx.TensorProto.STRING, [], [b"a tenth"]))
    assert {"model.checker", "qdq.scale-constant"} <= ids(lint(model, CARD))
