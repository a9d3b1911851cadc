"""Units are found from the structure: whole residual branches in a block, one weight in a layer."""

from __future__ import annotations

import pytest
import torch

from edgeq.quant.cones import closes, cone
from edgeq.quant.units import partition

CUTS = ("r0", "r2", "p", "f")


@pytest.fixture(scope="module")
def case(make_case):
    return make_case("w4a4")


def units_of(case, unit, cuts=CUTS):
    return partition(case.teacher, case.plan, cuts, [case.x[:2]], unit=unit)


def test_a_block_holds_a_whole_residual_branch(case):
    assert [unit.weights for unit in units_of(case, "block")] == [("w0",), ("w1", "w2"), ("w3",)]


def test_blocks_follow_each_other_and_end_at_the_output(case):
    stem, block, head = units_of(case, "block")
    name = case.teacher.fx_node_of
    assert (stem.inputs, stem.output) == ((name["x"],), name["r0"])
    assert (block.inputs, block.output) == ((name["r0"],), name["r2"])
    # pooling and flattening have no weights, so they belong to the layer behind them
    assert (head.inputs, head.output) == ((name["r2"],), name["y"])


def test_a_layer_ends_behind_its_activation(case):
    name = case.teacher.fx_node_of
    layers = units_of(case, "layer")
    assert [unit.weights for unit in layers] == [("w0",), ("w1",), ("w2",), ("w3",)]
    assert [unit.output for unit in layers] == [name["r0"], name["r1"], name["c2"], name["y"]]
    assert [unit.inputs for unit in layers] == [
        (name["x"],),
        (name["r0"],),
        (name["r1"],),
        (name["f"],),
    ]


def test_layers_are_computed_from_the_anchor_of_their_block(case):
    blocks = {name: unit.anchor for unit in units_of(case, "block") for name in unit.weights}
    for unit in units_of(case, "layer"):
        assert unit.anchor == blocks[unit.weights[0]]


def test_a_layer_with_a_second_computed_operand_is_computed_from_the_anchor(make_case):
    text = """g (float[N,3,8,8] x) => (float[N,5] y)
    <float[5,3] w0, float[5,3] w1, float[5,3] w2>
    {
      p = GlobalAveragePool(x)
      f = Flatten(p)
      r = Relu(f)
      a = Gemm<transB=1>(f, w0)
      s = Sigmoid(a)
      b = Gemm<transB=1>(r, w1, s)
      t = Tanh(b)
      c = Gemm<transB=1>(r, w2)
      y = Add(c, t)
    }"""
    case = make_case("w4a4", text=text)
    name = case.teacher.fx_node_of
    units = {unit.weights[0]: unit for unit in units_of(case, "layer", ())}
    assert units["w1"].inputs == units["w1"].anchor == (name["x"],)
    assert units["w2"].inputs == (name["r"],)
    for unit in units.values():
        assert closes(case.teacher.module, unit.inputs, (unit.output,))


def test_a_tensor_that_is_no_cut_ends_no_block(case):
    """r1 lies beside the shortcut."""
    assert units_of(case, "block", ("r0", "r1", "r2")) == units_of(case, "block", ("r0", "r2"))


def test_without_cuts_the_network_is_one_block(case):
    (whole,) = units_of(case, "block", ())
    assert whole.weights == ("w0", "w1", "w2", "w3")


def test_a_cone_computes_what_the_network_does(case):
    name = case.teacher.fx_node_of
    module = case.teacher.module
    with torch.no_grad():
        (r0,) = cone(module, (name["x"],), (name["r0"],))(case.x)
        (y,) = cone(module, (name["r0"],), (name["y"],))(r0)
        assert torch.equal(y, module(case.x)[0])


def test_a_cone_that_needs_more_than_it_is_given_is_refused(case):
    name = case.teacher.fx_node_of
    assert not closes(case.teacher.module, (name["r1"],), (name["r2"],))
    with pytest.raises(ValueError, match="beside"):
        cone(case.teacher.module, (name["r1"],), (name["r2"],))
