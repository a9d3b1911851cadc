"""Cut tensors are those through which everything passes."""

from __future__ import annotations

import pytest

from edgeq.graph.cuts import cut_tensors
from edgeq.graph.view import GraphView


@pytest.fixture
def cuts(parse_graph):
    def run(text: str) -> tuple[str, ...]:
        return cut_tensors(GraphView(parse_graph(text)))

    return run


def test_every_tensor_of_a_chain_is_a_cut_but_its_ends(cuts):
    found = cuts("g (float[N,4] x) => (float[N,4] y) { a = Relu(x) b = Neg(a) y = Abs(b) }")
    assert found == ("a", "b")


def test_the_inside_of_a_residual_block_is_no_cut_and_its_end_is(cuts):
    found = cuts("""g (float[N,4,8,8] x) => (float[N,4,8,8] y) <float[4,4,1,1] v, float[4,4,1,1] w>
    { r0 = Relu(x) c1 = Conv(r0, v) r1 = Relu(c1) c2 = Conv(r1, w) s = Add(c2, r0) r2 = Relu(s) y = Neg(r2) }""")
    assert found == ("r0", "s", "r2")


def test_a_projected_shortcut_is_inside_too(cuts):
    found = cuts("""g (float[N,4,8,8] x) => (float[N,4,8,8] y) <float[4,4,1,1] v, float[4,4,1,1] w>
    { a = Relu(x) b = Conv(a, v) c = Conv(a, w) s = Add(b, c) y = Relu(s) }""")
    assert found == ("a", "s")


def test_a_branch_that_meets_late_leaves_no_cut_between(cuts):
    found = cuts("""g (float[N,4] x) => (float[N,8] y)
    { a = Relu(x) b = Neg(a) c = Abs(b) d = Exp(c) y = Concat<axis=1>(d, a) }""")
    assert found == ("a",)


def test_a_second_output_ends_the_cuts(cuts):
    found = cuts("""g (float[N,4] x) => (float[N,4] y, float[N,4] aux)
    { a = Relu(x) aux = Neg(a) b = Abs(a) y = Exp(b) }""")
    assert found == ("a",)


def test_an_output_that_is_read_again_is_no_cut_nor_is_what_follows(cuts):
    found = cuts("""g (float[N,4] x) => (float[N,4] mid, float[N,4] y)
    { a = Relu(x) mid = Neg(a) b = Abs(mid) y = Exp(b) }""")
    assert found == ("a",)


def test_two_inputs_are_cut_only_behind_where_they_meet(cuts):
    found = cuts("""g (float[N,4] x, float[N,4] z) => (float[N,4] y)
    { a = Relu(x) b = Neg(z) c = Add(a, b) d = Relu(c) y = Abs(d) }""")
    assert found == ("c", "d")


def test_constants_and_weights_do_not_count(cuts):
    found = cuts("""g (float[N,4] x) => (float[N,4] y) <float[4] w>
    { k = Constant<value = float {2}>() t = Neg(w) a = Mul(x, k) b = Add(a, t) y = Relu(b) }""")
    assert found == ("a", "b")


def test_shapes_that_the_data_have_do_not_count(cuts):
    found = cuts("""g (float[N,4] x) => (float[N,4] y) <int64[1] i = {0}>
    { a = Relu(x) b = Neg(a) s = Shape(a) n = Gather(s, i) c = Reshape(b, s) y = Abs(c) }""")
    assert found == ("a", "b", "c")


def test_a_late_reader_of_the_inputs_shape_ends_no_cut(cuts):
    """PyTorch's `x.view(batch, -1)` may ask the graph input for the batch at the very end."""
    found = cuts("""g (float[N,4,1,1] x) => (float[N,4] y) <int64[1] i = {0}, int64[1] rest = {-1}>
    { a = Relu(x) b = Neg(a) s = Shape(x) n = Gather(s, i) t = Concat<axis=0>(n, rest) y = Reshape(b, t) }""")
    assert found == ("a", "b")


def test_what_nobody_reads_does_not_count(cuts):
    found = cuts(
        """g (float[N,4] x) => (float[N,4] y) { a = Relu(x) dead = Exp(a) b = Neg(a) y = Abs(b) }"""
    )
    assert found == ("a", "b")


def test_an_unread_input_does_not_count(cuts):
    found = cuts("g (float[N,4] x, float[N,4] z) => (float[N,4] y) { a = Relu(x) y = Neg(a) }")
    assert found == ("a",)
