from __future__ import annotations

import numpy as np
import pytest

from edgeq.graph.half_rules import HALF_MAX, HALF_RULES, HEADROOM, choose_full, scale_error

PAIR = "q = QuantizeLinear (x, s, z) d = DequantizeLinear (q, s, z)"


def graph(body: str, declared: str = "", *, shape: str = "N,4,8,8") -> str:
    return f"g (float[{shape}] x) => (float[K,L,M,O] y) <{declared}> {{ {body} }}"


def rules(parse_graph, text: str, amax: dict[str, float] | None = None, opset: int = 19, **arrays):
    kept = choose_full(parse_graph(text, opset=opset, **arrays), amax or {})
    return {item.node: item.rule for item in kept}


# For each rule a graph to which it applies, and one that looks like it and is left alone.
APPLIES = {
    "no form": graph("r = RandomNormalLike<dtype=1> (x) y = Add (x, r)"),
    "shape arithmetic": graph(
        "n = Shape (x) f = Cast<to=1> (n) h = Mul (f, f) m = ReduceMax<keepdims=0> (h) y = Div (x, m)"
    ),
    "delicate": graph("y = Softmax<axis=1> (x)"),
    "long sum": graph("y = GlobalAveragePool (x)", shape="N,4,64,64"),
    "range": graph("r = Relu (x) y = Neg (r)"),
    "constant": graph("y = Add (x, eps)", "float eps = {1e-9}"),
    "scale": graph(f"{PAIR} y = Relu (d)", "float s = {1e-6}, int8 z = {0}"),
}
LEFT = {
    "no form": graph("r = Relu (x) y = Add (x, r)"),
    "shape arithmetic": graph(
        "n = Shape (x) f = Cast<to=6> (n) g = Cast<to=7> (f) y = Reshape (x, g)"
    ),
    "delicate": graph("y = Sigmoid (x)"),
    "long sum": graph("y = GlobalAveragePool (x)", shape="N,4,8,8"),
    "range": graph("r = Relu (x) y = Neg (r)"),
    "constant": graph("y = Clip (x, low, high)", "float low = {0}, float high = {3e38}"),
    "scale": graph(f"{PAIR} y = Relu (d)", "float s = {0.02}, int8 z = {0}"),
}
AMAX = {"r": HALF_MAX / HEADROOM}


@pytest.mark.parametrize("rule", HALF_RULES)
def test_each_rule_keeps_what_it_is_for_and_leaves_its_neighbour_alone(parse_graph, rule):
    over = {name: 1.01 * value for name, value in AMAX.items()}
    assert rule in rules(parse_graph, APPLIES[rule], over).values()
    assert rules(parse_graph, LEFT[rule], AMAX) == {}


def test_a_measured_overflow_keeps_the_maker_and_the_readers_and_says_how_large(parse_graph):
    model = parse_graph(graph("r = Relu (x) n = Neg (r) y = Abs (n)"), opset=19)
    kept = choose_full(model, {"r": 3e5, "n": 1.0, "y": 1.0})
    assert [item.node for item in kept] == ["r", "n"]
    assert "'r' reaches 3e+05" in kept[0].reason


def test_a_square_made_by_a_product_counts_as_one(parse_graph):
    text = graph("s = Mul (x, x) y = ReduceMean<axes=[1]> (s)")
    assert rules(parse_graph, text, opset=13) == {"y": "delicate"}


def test_a_pair_stays_together_with_all_its_readers(parse_graph):
    text = graph(
        f"{PAIR} a = Relu (d) b = Neg (d) y = Add (a, b)", "float s = {1e-7}, int8 z = {0}"
    )
    assert rules(parse_graph, text) == {"q": "scale", "d": "scale", "a": "pair", "b": "pair"}


def test_what_lies_between_two_kept_nodes_is_kept_too(parse_graph):
    text = graph("e = Exp (x) n = Neg (e) y = Log (n)")
    assert rules(parse_graph, text) == {"e": "delicate", "n": "between", "y": "delicate"}


def test_one_small_channel_is_enough(parse_graph):
    text = graph(
        "d = DequantizeLinear<axis=0> (w, s, z) y = Conv (x, d)",
        "int8[2,4,1,1] w, float[2] s, int8[2] z",
    )
    scale = np.float32([0.02, 1e-6])
    kept = choose_full(parse_graph(text, opset=19, s=scale, z=np.zeros(2, np.int8)), {})
    assert {item.node: item.rule for item in kept} == {"d": "scale", "y": "pair"}
    assert "1e-06" in kept[0].reason


@pytest.mark.parametrize(
    ("scale", "error"), [(2.0**-14, 0.0), (1e-4, 2.0**-11), (1e-9, 1.0), (1e6, np.inf)]
)
def test_the_error_of_a_scale_in_half_precision(scale, error):
    found = scale_error(np.float32([1.0, scale]))
    assert found == pytest.approx(error) if error != 2.0**-11 else 0 < found <= error
