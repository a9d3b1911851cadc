from __future__ import annotations

import onnx
import pytest
import torch

from edgeq.teacher.importer import import_teacher
from edgeq.teacher.logits import give_logits
from edgeq.teacher.teacher import Teacher, with_outputs

HEAD = '<ir_version: 9, opset_import: ["" : 17]>'
PLAIN = "y = Softmax<axis=1> (z)"
RESHAPED = "p4 = Reshape (z, apart) p = Softmax<axis=1> (p4) y = Flatten (p)"


def teacher_of(end: str, outputs: str = "float[B,5] y") -> Teacher:
    text = f"""{HEAD} g (float[B,3] x) => ({outputs})
    <float[5,3] w = {{{", ".join(str(0.1 * i - 0.6) for i in range(15))}}}, int64[4] apart = {{-1,5,1,1}}>
    {{ z = Gemm<transB=1> (x, w) {end} }}"""
    return import_teacher(onnx.parser.parse_model(text))


@pytest.fixture(scope="module")
def x() -> torch.Tensor:
    return torch.randn(4, 3, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("end", [PLAIN, RESHAPED])
def test_what_enters_the_closing_softmax_is_the_first_output(end: str, x: torch.Tensor) -> None:
    teacher = teacher_of(end)
    given = give_logits(teacher)
    (probabilities,), (scores,) = with_outputs(teacher, ["z"])(x)
    (found,) = given.module(x)
    assert torch.equal(found, scores)
    assert torch.allclose(found.softmax(1), probabilities)


def test_the_output_s_name_leads_to_the_scores(x: torch.Tensor) -> None:
    given = give_logits(teacher_of(RESHAPED))
    (output,), (named,) = with_outputs(given, ["y"])(x)
    assert torch.equal(output, named)


def test_other_outputs_that_read_the_softmax_stay(x: torch.Tensor) -> None:
    teacher = teacher_of(f"{PLAIN} doubled = Add (y, y)", "float[B,5] y, float[B,5] doubled")
    _, doubled = give_logits(teacher).module(x)
    assert torch.equal(doubled, teacher.module(x)[1])


def test_a_name_that_other_nodes_read_stays_with_the_probabilities(x: torch.Tensor) -> None:
    teacher = teacher_of(f"{PLAIN} doubled = Add (y, y)", "float[B,5] y, float[B,5] doubled")
    (scores, _), (named,) = with_outputs(give_logits(teacher), ["y"])(x)
    assert torch.equal(named, teacher.module(x)[0])
    assert not torch.equal(scores, named)


def test_the_teacher_that_is_passed_in_stays(x: torch.Tensor) -> None:
    teacher = teacher_of(PLAIN)
    before = teacher.module(x)[0]
    give_logits(teacher)
    assert torch.equal(teacher.module(x)[0], before)


@pytest.mark.parametrize(
    "end", ["y = Identity (z)", "y = LogSoftmax<axis=1> (z)", "y = Sigmoid (z)"]
)
def test_a_teacher_without_a_closing_softmax_is_returned_as_it_is(end: str) -> None:
    teacher = teacher_of(end)
    assert give_logits(teacher) is teacher
