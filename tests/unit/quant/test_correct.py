"""After correction the outputs of a layer have the mean, and the variance, that the teacher's have."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from edgeq.core.recipes import CorrectionSpec
from edgeq.quant.correct import correct_outputs
from edgeq.teacher.teacher import with_outputs

LAYERS = ("c0", "c1", "c2", "y")


def corrected(case, problem, **figures):
    student = case.student()
    count = correct_outputs(problem, student, [case.x], CorrectionSpec(**figures), batch=8)
    return student, count


def moments(case, teacher):
    with torch.no_grad():
        values = with_outputs(teacher, LAYERS)(case.x)[1]
    rows = [value.movedim(1, 0).flatten(1) for value in values]
    return [row.mean(1) for row in rows], [row.var(1, unbiased=False) for row in rows]


@pytest.fixture(scope="module")
def case(make_case):
    return make_case("w3a3")


def test_the_mean_of_every_channel_is_the_teachers(case, problem):
    student, count = corrected(case, problem, bias=True)
    assert count == len(LAYERS)
    wanted, found = moments(case, case.teacher)[0], moments(case, student.teacher)[0]
    for a, b in zip(wanted, found, strict=True):
        torch.testing.assert_close(b, a, atol=1e-5, rtol=1e-4)
    before = moments(case, case.student().teacher)[0]
    assert float((before[2] - wanted[2]).abs().max()) > 1e-3


def test_the_variance_of_every_channel_is_the_teachers(case, problem):
    student, _ = corrected(case, problem, bias=True, variance=True)
    for wanted, found in zip(
        moments(case, case.teacher), moments(case, student.teacher), strict=True
    ):
        for a, b in zip(wanted, found, strict=True):
            torch.testing.assert_close(b, a, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("beta", [0.0, 3.0])
def test_the_factor_of_a_gemms_bias_is_counted(make_case, make_problem, beta):
    text = f"""g (float[N,3,8,8] x) => (float[N,5] y)
    <float[4,3,3,3] w0, float[4] b0, float[5,4] w1, float[5] b1>
    {{
      c0 = Conv(x, w0, b0)
      r0 = Relu(c0)
      p = GlobalAveragePool(r0)
      f = Flatten(p)
      y = Gemm<transB=1,beta={beta}>(f, w1, b1)
    }}"""
    case = make_case("w3a3", text=text)
    student, _ = corrected(case, make_problem(case, blocks=(), last_map="r0"), bias=True)
    with torch.no_grad():
        wanted, found, before = (
            teacher.module(case.x)[0].mean(0)
            for teacher in (case.teacher, student.teacher, case.student().teacher)
        )
    if beta:
        torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-4)
        assert float((before - wanted).abs().max()) > 1e-3
    else:
        assert torch.isfinite(found).all()


def test_a_weight_of_two_layers_keeps_its_scale(make_case, make_problem):
    text = """g (float[N,3,8,8] x) => (float[N,3] y)
    <float[3,3,1,1] w0, float[3] b0, float[3] b1>
    {
      c0 = Conv(x, w0, b0)
      r0 = Relu(c0)
      c1 = Conv(r0, w0, b1)
      p = GlobalAveragePool(c1)
      y = Flatten(p)
    }"""
    case = make_case("w4a4", text=text)
    student, count = corrected(case, make_problem(case), bias=True, variance=True)
    assert count == 2
    before, after = case.student().values().scales, student.values().scales
    assert np.array_equal(before["w0"], after["w0"])


@pytest.mark.parametrize("figures", [{"bias": True}, {"variance": True}])
def test_no_code_moves(case, problem, figures):
    student, _ = corrected(case, problem, **figures)
    before, after = case.student().values().codes, student.values().codes
    assert all(np.array_equal(before[name], after[name]) for name in before)
