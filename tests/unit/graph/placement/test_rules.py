"""Each rule of TensorRT's placement on a small graph where it holds, and on one where it must not."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from edgeq.graph.placement import RULES

X = "float[N,16,8,8] x"
Y = "float[N,16,8,8] y"
WEIGHTS = ", ".join(f"float[16,16,1,1] w{index}" for index in range(5))


def graph(body: str, *, more: str = "", x: str = X, y: str = Y) -> str:
    """Return a graph around `body`, which reads `h`, the quantizable output of a stem, and makes `e`."""
    extra = f", {more}" if more else ""
    return (
        f"g ({x}) => ({y}) <{WEIGHTS}{extra}> "
        f"{{ s = Conv(x, w0) h = Relu(s) {body} y = Conv(e, w4) }}"
    )


@dataclass(frozen=True)
class Case:
    """Where a rule decides on a tensor, and how; and a graph in which it has nothing to say on the tensor `other`.

    Attributes:
        quantizes: whether the rule wants the tensor quantized.
        without: a body in which the rule does not hold for `other`, or decides the other way.
    """

    rule: str
    body: str
    tensor: str
    quantizes: bool
    without: str
    other: str
    more: str = ""
    why: str = ""


TRANSPOSED = "t = Transpose<perm=[0,2,3,1]>(h) "
BACK = "e = Transpose<perm=[0,3,1,2]>(m)"
CASES = [
    Case("conv", "a = Conv(h, w1) r = Relu(a) b = Conv(r, w2) e = Relu(b)", "r", True,
         "a = Conv(h, w1) r = Relu(a) v = Abs(w2) b = Conv(r, v) e = Relu(b)", "r"),
    Case("depthwise", "a = Conv<group=16,pads=[1,1,1,1]>(h, d) r = Relu(a) b = Conv(r, w1) e = Relu(b)", "h", True,
         "a = Conv<group=4>(h, u) r = Relu(a) b = Conv(r, w1) e = Relu(b)", "h",
         "float[16,1,3,3] d, float[16,4,1,1] u"),
    Case("transposed conv", "a = ConvTranspose(h, w1) r = Relu(a) b = Conv(r, w2) e = Relu(b)", "h", True,
         "a = ConvTranspose<group=4>(h, u) r = Relu(a) b = Conv(r, w2) e = Relu(b)", "h", "float[16,4,1,1] u"),
    Case("matrix product", TRANSPOSED + "m = MatMul(t, k) " + BACK, "t", True,
         "m = MatMul(h, h) r = Relu(m) b = Conv(r, w2) e = Relu(b)", "h", "float[16,16] k"),
    Case("bias", "a = Conv(h, w1, c) r = Relu(a) b = Conv(r, w2) e = Relu(b)", "c", False,
         "a = Conv(h, w1) q = Add(a, c1) b = Conv(q, w2) e = Relu(b)", "c1", "float[16] c, float[16,1,1] c1"),
    Case("residual add", "a = Conv(h, w1) r = Relu(a) b = Conv(r, w2) q = Add(b, h) e = Relu(q)", "b", False,
         "a = Conv(h, w1) r = Relu(a) b = Conv(r, w2) q = Sub(b, h) e = Relu(q)", "b"),
    Case("concat", "a = Conv(h, w1) r = Relu(a) j = Concat<axis=1>(r, h) b = Conv(j, u) e = Relu(b)", "r", True,
         "a = Conv(h, w1) r = Relu(a) j = Concat<axis=1>(r, h) n = Neg(j) b = Conv(n, u) e = Relu(b)", "r",
         "float[16,32,1,1] u"),
    Case("average pool", "r = AveragePool<kernel_shape=[1,1]>(h) b = Conv(r, w1) a = Relu(b) e = Relu(a)", "h", True,
         "r = AveragePool<kernel_shape=[1,1]>(h) n = Neg(r) b = Conv(n, w1) e = Relu(b)", "h"),
    Case("max pool", "n = Neg(h) r = MaxPool<kernel_shape=[1,1]>(n) b = Conv(r, w1) e = Relu(b)", "n", False,
         "n = Neg(h) r = AveragePool<kernel_shape=[1,1]>(n) b = Conv(r, w1) e = Relu(b)", "n"),
    Case("activation", "a = Conv(h, w1) r = HardSwish(a) b = Conv(r, w2) e = Relu(b)", "a", False,
         "a = Conv(h, w1) r = Relu(a) b = Conv(r, w2) e = Relu(b)", "a"),
    Case("gated activation", "a = Conv(h, w1) t = Sigmoid(a) r = Mul(a, t) b = Conv(r, w2) e = Relu(b)", "t", False,
         "a = Conv(h, w1) n = Neg(a) t = Sigmoid(n) r = Mul(a, t) b = Conv(r, w2) e = Relu(b)", "t",
         why="x * gate(x)"),
    Case("squeeze and excite",
         "p = GlobalAveragePool(h) a = Conv(p, w1) r = Relu(a) b = Conv(r, w2) t = HardSigmoid(b) e = Mul(h, t)", "t",
         False, "a = Conv(h, w1) r = Relu(a) b = Conv(r, w2) t = HardSigmoid(b) e = Mul(h, t)", "t"),
    Case("product", "a = Conv(h, w1) b = Conv(h, w2) q = Mul(a, b) e = Relu(q)", "a", False,
         "a = Conv(h, w1) b = Conv(h, w2) q = Add(a, b) e = Relu(q)", "a"),
    Case("attention",
         "k = Transpose<perm=[0,1,3,2]>(h) m = MatMul(h, k) z = Mul(m, c) t = Softmax(z) q = MatMul(t, h) e = Relu(q)",
         "k", False, "k = Transpose<perm=[0,1,3,2]>(h) m = MatMul(h, k) e = Relu(m)", "k", "float c"),
    Case("normalisation", TRANSPOSED + "m = LayerNormalization(t, c) " + BACK, "t", False,
         TRANSPOSED + "m = Neg(t) " + BACK, "t", "float[16] c"),
    Case("resize", "a = Conv(h, w1) r = Relu(a) z = Resize(r, , f) e = Relu(z)", "r", False,
         "a = Conv(h, w1) r = Relu(a) z = Neg(r) e = Relu(z)", "r", "float[4] f = {1, 1, 1, 1}"),
    Case("data movement", "n = Neg(h) a, b = Split<axis=1>(n, z) j = Concat<axis=1>(b, a) e = Relu(j)", "n", False,
         "n = Neg(h) a = Abs(n) b = Conv(a, w1) e = Relu(b)", "n", "int64[2] z = {8, 8}"),
]  # fmt: skip


def decide(parse_graph, place, body: str, more: str):
    return place(parse_graph(graph(body, more=more)))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.rule)
def test_a_rule_decides_where_it_holds(parse_graph, place, case):
    decision = decide(parse_graph, place, case.body, case.more)[case.tensor]
    assert decision.rule == case.rule
    assert (decision.grid is not None) == case.quantizes
    assert case.why in decision.reason


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.rule)
def test_a_rule_leaves_other_graphs_alone(parse_graph, place, case):
    decision = decide(parse_graph, place, case.without, case.more).get(case.other)
    is_same = decision is not None and decision.rule == case.rule
    assert not (is_same and (decision.grid is not None) == case.quantizes)


def test_every_rule_of_tensorrt_has_a_case():
    names = {name for name in RULES if RULES.get(name).runtime == "tensorrt"}
    assert {case.rule for case in CASES} == names | {"bias"}


def test_the_shortcut_of_a_residual_add_is_what_is_quantized(parse_graph, place):
    (case,) = [case for case in CASES if case.rule == "residual add"]
    decisions = decide(parse_graph, place, case.body, case.more)
    assert "shortcut of Add" in decisions["h"].reason
    assert decisions["h"].grid is not None


def test_the_tensor_behind_a_squeeze_and_excite_block_is_quantized_once_for_the_gate(
    parse_graph, place
):
    (case,) = [case for case in CASES if case.rule == "squeeze and excite"]
    decisions = decide(parse_graph, place, case.body, case.more)
    assert [site.op_type for site in decisions["h"].sites] == ["GlobalAveragePool"]
    assert decisions["e"].grid is not None


def test_what_a_split_gives_is_quantized_for_its_readers(parse_graph, place):
    body = "n = Neg(h) a, b = Split<axis=1>(n, z) c1 = Conv(a, u) c2 = Conv(b, u) e = Add(c1, c2)"
    decisions = decide(parse_graph, place, body, "int64[2] z = {8, 8}, float[16,8,1,1] u")
    assert decisions["n"].rule == "data movement"
    assert decisions["a"].grid is not None
    assert decisions["b"].grid is not None
