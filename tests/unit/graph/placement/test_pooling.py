from __future__ import annotations

import pytest

POOLS = {
    "global": "GlobalAveragePool(r)",
    "average": "AveragePool<kernel_shape=[8,8]>(r)",
    "mean": "ReduceMean<axes=[2,3]>(r)",
    "mean_negative_axes": "ReduceMean<axes=[-1,-2]>(r)",
}


def head(pool: str, *, tail: str = "y = Gemm(f, w1)") -> str:
    return f"""g (float[N,4,8,8] x) => (float[N,16] y)
    <float[4,4,1,1] w0, float[4,16] w1, float[4,16] w2>
    {{
      c = Conv(x, w0)
      r = Relu(c)
      p = {pool}
      f = Flatten(p)
      {tail}
    }}"""


@pytest.mark.parametrize("pool", POOLS.values(), ids=POOLS)
def test_a_pool_in_front_of_a_quantized_layer_is_quantized_on_both_sides(parse_graph, place, pool):
    decisions = place(parse_graph(head(pool)))
    assert decisions["r"].grid is not None
    assert decisions["r"].rule == "average pool"
    assert decisions["f"].grid is not None


def test_a_mean_whose_axes_are_an_input_is_recognised(parse_graph, place):
    text = head("ReduceMean(r, axes)").replace("<float", "<int64[2] axes = {2,3}, float", 1)
    assert place(parse_graph(text, opset=18))["r"].grid is not None


def test_a_pool_with_a_float_reader_stays_float(parse_graph, place):
    model = parse_graph(
        head(POOLS["global"], tail="g1 = Gemm(f, w1) s = Softmax(f) y = Gemm(s, w2)")
    )
    decisions = place(model)
    assert decisions["r"].grid is None
    assert "INT8 in needs INT8 out" in decisions["r"].reason


def test_a_pool_that_ends_the_graph_stays_float(parse_graph, place):
    model = parse_graph("""g (float[N,4,8,8] x) => (float[N,4,1,1] y) <float[4,4,1,1] w>
    { c = Conv(x, w) y = GlobalAveragePool(c) }""")
    assert place(model)["c"].grid is None


def test_a_mean_over_channels_is_no_pool(parse_graph, place):
    model = parse_graph("""g (float[N,4,8,8] x) => (float[N,6,8,8] y) <float[6,1,1,1] w>
    { r = Relu(x) m = ReduceMean<axes=[1]>(r) y = Conv(m, w) }""")
    assert "other axes" in place(model)["r"].reason


def test_a_max_pool_gets_none_of_its_own_and_the_plan_says_so(parse_graph, place):
    model = parse_graph("""g (float[N,4,8,8] x) => (float[N,4,4,4] y)
    <float[4,4,1,1] w0, float[4,4,1,1] w1>
    { c = Conv(x, w0) p = MaxPool<kernel_shape=[2,2],strides=[2,2]>(c) y = Conv(p, w1) }""")
    decisions = place(model)
    assert decisions["c"].grid is None
    assert decisions["c"].rule == "max pool"
    assert decisions["p"].grid is not None
