"""Equalization changes no output, and makes the ranges on both sides of a channel equal."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch

from edgeq.quant.equalize import channel_factors, equalize
from edgeq.teacher.teacher import run_and_capture

CHAIN = """g (float[N,3,8,8] x) => (float[N,5] y)
<float[6,3,3,3] w0, float[6] b0, float[6,1,3,3] w1, float[6] b1, float[5,6,1,1] w2, float[5] b2>
{
  c0 = Conv<pads=[1,1,1,1]>(x, w0, b0)
  r0 = Relu(c0)
  c1 = Conv<group=6,pads=[1,1,1,1]>(r0, w1, b1)
  r1 = Relu(c1)
  c2 = Conv(r1, w2, b2)
  p = GlobalAveragePool(c2)
  y = Flatten(p)
}"""


def uneven(shape, seed):
    rng = np.random.default_rng(seed)
    axes = (-1,) + (1,) * (len(shape) - 1)
    return (rng.normal(size=shape) * 10 ** rng.uniform(-1, 1, shape[0]).reshape(axes)).astype(
        np.float32
    )


@pytest.fixture(scope="module")
def chain(make_case):
    arrays = {"w0": uneven((6, 3, 3, 3), 0), "w1": uneven((6, 1, 3, 3), 1)}
    return make_case("w8a8", text=CHAIN, **arrays)


def weight(teacher, tensor):
    name = next(key for key, value in teacher.binding.items() if value == tensor)
    return teacher.module.get_parameter(name)


def test_the_network_computes_what_it_did(chain):
    other, pairs = equalize(chain.teacher, chain.plan)
    assert pairs == 2
    with torch.no_grad():
        expected, found = (item.module(chain.x)[0] for item in (chain.teacher, other))
    assert float((found - expected).abs().max() / expected.abs().max()) < 1e-5


def test_a_chain_with_a_depthwise_layer_ends_with_equal_ranges(chain):
    other, _ = equalize(chain.teacher, chain.plan)
    first = weight(other, "w0").abs().flatten(1).amax(1)
    middle = weight(other, "w1").abs().flatten(1).amax(1)
    last = weight(other, "w2").abs().amax((0, 2, 3))
    torch.testing.assert_close(first, middle, rtol=1e-3, atol=0)
    torch.testing.assert_close(middle, last, rtol=1e-3, atol=0)
    before = [weight(chain.teacher, name).abs() for name in ("w0", "w1", "w2")]
    product = (
        before[0].flatten(1).amax(1) * before[1].flatten(1).amax(1) * before[2].amax((0, 2, 3))
    )
    torch.testing.assert_close(first, product.pow(1 / 3), rtol=1e-3, atol=0)


def test_a_channel_that_is_switched_off_stays_finite(make_case):
    dead = uneven((6, 3, 3, 3), 0)
    dead[2] = 0
    case = make_case("w8a8", text=CHAIN, w0=dead)
    other, _ = equalize(case.teacher, case.plan)
    assert all(torch.isfinite(item).all() for item in other.module.parameters())


def test_a_shortcut_is_not_crossed(make_case):
    """r0 is read by the branch and by the shortcut; w1 and w2 follow each other."""
    case = make_case("w8a8")
    other, pairs = equalize(case.teacher, case.plan)
    assert pairs == 1
    assert torch.equal(weight(other, "w0"), weight(case.teacher, "w0"))
    assert not torch.equal(weight(other, "w1"), weight(case.teacher, "w1"))


@pytest.mark.parametrize("function", ["Sigmoid(c0)", "Clip(c0, zero, six)"])
def test_what_is_not_homogeneous_is_not_crossed(make_case, function):
    text = CHAIN.replace("r0 = Relu(c0)", f"r0 = {function}").replace(
        "float[5] b2>", "float[5] b2, float zero = {0.0}, float six = {6.0}>"
    )
    case = make_case("w8a8", text=text)
    other, pairs = equalize(case.teacher, case.plan)
    assert pairs == 1
    assert torch.equal(weight(other, "w0"), weight(case.teacher, "w0"))


def test_the_teacher_that_was_given_stays(chain):
    before = weight(chain.teacher, "w0").clone()
    equalize(chain.teacher, chain.plan)
    assert torch.equal(weight(chain.teacher, "w0"), before)
    assert isinstance(chain.model, onnx.ModelProto)


def test_channel_factors_tell_what_has_become_of_each_tensor(chain):
    other, _ = equalize(chain.teacher, chain.plan)
    factors = channel_factors(chain.teacher, other, [chain.x])
    assert set(factors) == {"c0", "r0", "c1", "r1"}
    _, before = run_and_capture(chain.teacher, [chain.x], list(factors))
    _, after = run_and_capture(other, [chain.x], list(factors))
    for name, factor in factors.items():
        restored = after[name] / torch.from_numpy(factor).view(-1, 1, 1)
        atol = 1e-4 * float(before[name].abs().max())
        torch.testing.assert_close(restored, before[name], rtol=1e-4, atol=atol)
