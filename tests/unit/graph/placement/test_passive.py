from __future__ import annotations

import pytest


@pytest.mark.parametrize(
    ("op", "rule"),
    [
        ("Sigmoid", "activation"),
        ("HardSwish", "activation"),
        ("LeakyRelu", "activation"),
        ("Softmax", "normalisation"),
    ],
)
def test_the_quantizer_stands_behind_an_activation_and_not_in_front(parse_graph, place, op, rule):
    model = parse_graph(f"""g (float[N,4,8,8] x) => (float[N,4,8,8] y)
    <float[4,4,1,1] w0, float[4,4,1,1] w1>
    {{ c = Conv(x, w0) a = {op}(c) y = Conv(a, w1) }}""")
    decisions = place(model)
    assert decisions["c"].grid is None
    assert decisions["c"].rule == rule
    assert decisions["a"].grid is not None


def test_silu_is_quantized_once_behind_the_product(parse_graph, place):
    model = parse_graph("""g (float[N,4,8,8] x) => (float[N,4,8,8] y)
    <float[4,4,1,1] w0, float[4,4,1,1] w1>
    { c = Conv(x, w0) s = Sigmoid(c) m = Mul(c, s) y = Conv(m, w1) }""")
    decisions = place(model)
    quantized = {name for name, decision in decisions.items() if decision.grid is not None}
    assert quantized == {"x", "w0", "m", "w1"}


def test_a_squeeze_and_excite_gate_leaves_the_product_in_float(parse_graph, place):
    model = parse_graph("""g (float[N,4,8,8] x) => (float[N,4,8,8] y)
    <float[4,4,1,1] w0, float[4,4,1,1] w1, float[4,4,1,1] w2>
    { c = Conv(x, w0) r = Relu(c) p = GlobalAveragePool(r) e = Conv(p, w1) g1 = Sigmoid(e)
      m = Mul(r, g1) y = Conv(m, w2) }""")
    decisions = place(model)
    assert [(site.op_type, site.node) for site in decisions["r"].sites] == [
        ("GlobalAveragePool", "p")
    ]
    assert decisions["g1"].grid is None
    assert decisions["m"].grid is not None
