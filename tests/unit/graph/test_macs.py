from __future__ import annotations

import pytest

from edgeq.graph.macs import count_macs

NET = """g (float[N,4,8,8] x) => (float[N,10] y)
<float[6,4,3,3] w, float[6,1,3,3] d, float[6,2,2,2] u, float[10,512] v>
{
  c = Conv<pads=[1,1,1,1]>(x, w)
  e = Conv<group=6, pads=[1,1,1,1]>(c, d)
  t = ConvTranspose<strides=[2,2]>(e, u)
  f = Flatten(t)
  y = Gemm<transB=1>(f, v)
}"""


@pytest.mark.parametrize("batch", [1, 3])
def test_products_are_counted_by_hand(parse_graph, batch):
    counts = count_macs(parse_graph(NET), {"x": (batch, 4, 8, 8)})
    assert counts == {
        "c": batch * 6 * 8 * 8 * 4 * 9,
        "e": batch * 6 * 8 * 8 * 9,
        "t": batch * 6 * 8 * 8 * 2 * 4,
        "y": batch * 10 * 512,
    }


def test_a_transposed_gemm_sums_over_its_first_axis(parse_graph):
    net = "g (float[7,5] x) => (float[5,3] y) <float[7,3] w> { y = Gemm<transA=1>(x, w) }"
    assert count_macs(parse_graph(net), {}) == {"y": 5 * 3 * 7}


def test_a_matrix_product_of_activations_counts(parse_graph):
    net = "g (float[2,4,5] a, float[2,5,6] b) => (float[2,4,6] y) { y = MatMul(a, b) }"
    assert count_macs(parse_graph(net), {}) == {"y": 2 * 4 * 6 * 5}


def test_a_node_of_unknown_shape_is_left_out(parse_graph):
    assert count_macs(parse_graph(NET), {}) == {}


def test_the_model_stays_as_it_is(parse_graph):
    model = parse_graph(NET)
    before = model.SerializeToString(deterministic=True)
    count_macs(model, {"x": (1, 4, 8, 8)})
    assert model.SerializeToString(deterministic=True) == before
