"""Activation equalization changes no output, brings channels to one size, and leaves alone what it cannot follow."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from edgeq.quant.channels import LARGEST_FACTOR, equalize_activations
from edgeq.teacher.teacher import run_and_capture

# Two blocks; the second one's shortcut halves the picture and adds empty channels on both sides.
RESIDUAL = """g (float[N,3,8,8] x) => (float[N,5] y)
<float[6,3,3,3] w0, float[6] b0, float[6,6,3,3] w1, float[6] b1, float[6,6,3,3] w2, float[6] b2,
 float[10,6,3,3] w3, float[10] b3, float[10,10,3,3] w4, float[10] b4, float[5,10] w5, float[5] b5,
 int64[1] zero = {0}, int64[1] end = {8}, int64[1] rows = {2}, int64[1] columns = {3}, int64[1] two = {2},
 int64[8] around = {0,2,0,0,0,2,0,0}>
{
  c0 = Conv<pads=[1,1,1,1]>(x, w0, b0)
  r0 = Relu(c0)
  c1 = Conv<pads=[1,1,1,1]>(r0, w1, b1)
  r1 = Relu(c1)
  c2 = Conv<pads=[1,1,1,1]>(r1, w2, b2)
  a2 = Add(c2, r0)
  r2 = Relu(a2)
  c3 = Conv<pads=[1,1,1,1], strides=[2,2]>(r2, w3, b3)
  r3 = Relu(c3)
  c4 = Conv<pads=[1,1,1,1]>(r3, w4, b4)
  s0 = Slice(r2, zero, end, rows, two)
  s1 = Slice(s0, zero, end, columns, two)
  s2 = Pad(s1, around)
  a4 = Add(c4, s2)
  r4 = Relu(a4)
  p = GlobalAveragePool(r4)
  f = Flatten(p)
  y = Gemm<transB=1>(f, w5, b5)
}"""

CONCAT = """g (float[N,3,8,8] x) => (float[N,4,8,8] y)
<float[6,3,3,3] w0, float[6] b0, float[6,1,3,3] w1, float[6] b1, float[4,12,1,1] w2, float[4] b2>
{
  c0 = Conv<pads=[1,1,1,1]>(x, w0, b0)
  r0 = Relu(c0)
  c1 = Conv<group=6,pads=[1,1,1,1]>(r0, w1, b1)
  r1 = Relu(c1)
  j = Concat<axis=1>(r0, r1)
  y = Conv(j, w2, b2)
}"""


def uneven(shape, seed, spread=0.5):
    rng = np.random.default_rng(seed)
    sizes = 10 ** rng.uniform(-spread, spread, shape[0])
    rows = rng.normal(size=shape) * sizes.reshape(-1, *[1] * (len(shape) - 1))
    return (rows / np.sqrt(rows[0].size)).astype(np.float32)


RESIDUAL_ARRAYS = {
    "w0": uneven((6, 3, 3, 3), 0),
    "w1": uneven((6, 6, 3, 3), 1),
    "w3": uneven((10, 6, 3, 3), 3),
}
CONCAT_ARRAYS = {"w0": uneven((6, 3, 3, 3), 0), "w1": uneven((6, 1, 3, 3), 1)}


@pytest.fixture(scope="module")
def residual(make_case):
    return make_case("w3a3", text=RESIDUAL, **RESIDUAL_ARRAYS)


@pytest.fixture(scope="module")
def concat(make_case):
    return make_case("w3a3", text=CONCAT, **CONCAT_ARRAYS)


def peaks(teacher, x, tensor):
    with torch.no_grad():
        _, values = run_and_capture(teacher, [x], [tensor])
    return values[tensor].abs().amax((0, 2, 3))


def moved(case, tensor, strength=1.0):
    """Return by which factor each channel of a tensor has moved."""
    other, _ = equalize_activations(case.teacher, case.plan, [case.x], strength)
    return peaks(other, case.x, tensor) / peaks(case.teacher, case.x, tensor)


@pytest.mark.parametrize("name", ["residual", "concat"])
@pytest.mark.parametrize("strength", [0.5, 1.0])
def test_the_network_computes_what_it_did(request, name, strength):
    case = request.getfixturevalue(name)
    other, classes = equalize_activations(case.teacher, case.plan, [case.x], strength)
    assert classes > 0
    with torch.no_grad():
        expected, found = (item.module(case.x)[0] for item in (case.teacher, other))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


def test_channels_between_two_layers_end_with_one_size(residual):
    before = peaks(residual.teacher, residual.x, "r1")
    other, _ = equalize_activations(residual.teacher, residual.plan, [residual.x], 1.0)
    after = peaks(other, residual.x, "r1")
    expected = torch.minimum(before.max(), before * LARGEST_FACTOR)
    torch.testing.assert_close(after, expected, rtol=1e-4, atol=0)
    assert after.min() > before.min()


def test_half_the_strength_takes_the_root_of_the_factor(residual):
    whole, half = moved(residual, "r1", 1.0), moved(residual, "r1", 0.5)
    free = whole < LARGEST_FACTOR * 0.99
    torch.testing.assert_close(half[free].square(), whole[free], rtol=1e-3, atol=0)


def test_channels_that_are_added_to_each_other_have_one_factor(residual):
    stem, block = moved(residual, "r0"), moved(residual, "r2")
    torch.testing.assert_close(stem, block, rtol=1e-4, atol=0)
    assert float(stem.max() / stem.min()) > 1.01


def test_a_shortcut_takes_the_factors_to_where_it_leads(residual):
    torch.testing.assert_close(moved(residual, "r4")[2:8], moved(residual, "r2"), rtol=1e-4, atol=0)


def test_the_branches_of_a_concatenation_have_factors_of_their_own(concat):
    first, second, joined = (moved(concat, name) for name in ("r0", "r1", "j"))
    torch.testing.assert_close(joined, torch.cat([first, second]), rtol=1e-4, atol=0)


def test_no_strength_moves_nothing(residual):
    _, classes = equalize_activations(residual.teacher, residual.plan, [residual.x], 0.0)
    assert classes == 0


def test_the_first_teacher_stays_as_it_is(residual):
    before = [item.clone() for item in residual.teacher.module.parameters()]
    equalize_activations(residual.teacher, residual.plan, [residual.x], 1.0)
    assert all(map(torch.equal, before, residual.teacher.module.parameters()))


@pytest.mark.parametrize(
    "function",
    [
        "m = Sigmoid(r0)",
        "m = Clip(r0, zero, six)",
        "m = Add(r0, one)",
        "m = Mul(r0, r0)",
        "m = Pad(r0, border, one)",
    ],
    ids=["sigmoid", "clip", "constant", "product", "pad_of_ones"],
)
def test_what_a_function_that_is_not_homogeneous_reads_stays(make_case, function):
    text = f"""g (float[N,3,8,8] x) => (float[N,4,8,8] y)
    <float[6,3,3,3] w0, float[6] b0, float[6,6,3,3] w1, float[6] b1, float[4,6,3,3] w2, float[4] b2,
     float zero = {{0}}, float six = {{6}}, float one = {{1}}, int64[8] border = {{0,0,1,1,0,0,1,1}}>
    {{
      c0 = Conv<pads=[1,1,1,1]>(x, w0, b0)
      r0 = Relu(c0)
      {function}
      c1 = Conv<pads=[1,1,1,1]>(m, w1, b1)
      r1 = Relu(c1)
      y = Conv<pads=[{"0,0,0,0" if "Pad" in function else "1,1,1,1"}]>(r1, w2, b2)
    }}"""
    case = make_case("w3a3", text=text, w0=uneven((6, 3, 3, 3), 0), w1=uneven((6, 6, 3, 3), 1))
    torch.testing.assert_close(moved(case, "r0"), torch.ones(6), rtol=1e-4, atol=0)
    assert float(moved(case, "r1").max()) > 1.01
