from __future__ import annotations

from collections.abc import Callable

import onnx
import pytest
import torch
from meters import metered
from paper import plan_paper

from edgeq.core.plan import Role
from edgeq.core.specs import BitSpec
from edgeq.quant.cones import cone
from edgeq.quant.student import Student, first_scales
from edgeq.teacher.importer import import_teacher
from edgeq.teacher.teacher import Teacher, with_outputs

NET = """g (float[N,3,8,8] x) => (float[N,4,8,8] y)
<float[4,3,3,3] w0, float[4,4,1,1] w1>
{
  c0 = Conv<pads=[1,1,1,1]>(x, w0)
  r0 = Relu(c0)
  y = Conv(r0, w1)
}"""


@pytest.fixture(scope="module")
def model(parse_graph: Callable[..., onnx.ModelProto]) -> onnx.ModelProto:
    return parse_graph(NET)


@pytest.fixture(scope="module")
def teacher(model: onnx.ModelProto) -> Teacher:
    return import_teacher(model)


def test_views_of_the_teacher_count_as_passes_and_gradients_apart(teacher: Teacher):
    x = torch.ones(5, 3, 8, 8, requires_grad=True)
    with metered(teacher.module) as usage:
        _, (inner,) = with_outputs(teacher, ["r0"])(x)
        inner.sum().backward()
        with torch.no_grad():
            teacher.module(x)
    assert (usage.forward, usage.backward) == (10, 5)


def test_a_part_of_the_teacher_counts_as_its_share_of_layers(teacher: Teacher):
    part = cone(teacher.module, (teacher.fx_node_of["x"],), (teacher.fx_node_of["r0"],))
    with metered(teacher.module) as usage:
        part(torch.ones(4, 3, 8, 8))
    assert usage.forward == 2


def test_the_student_is_no_teacher(model: onnx.ModelProto, teacher: Teacher):
    plan = plan_paper(model, BitSpec.parse("w4a4"))
    x = torch.ones(4, 3, 8, 8)
    student = Student(teacher, plan, first_scales(teacher, plan, [(x,)]))
    assert list(plan.quantized(Role.ACTIVATION))
    with metered(teacher.module) as usage:
        student.teacher.module(x)
    assert usage.forward == 0


def test_nothing_is_counted_behind_the_block(teacher: Teacher):
    with metered(teacher.module) as usage:
        pass
    teacher.module(torch.ones(1, 3, 8, 8))
    assert usage.forward == 0
    assert usage.peak_mb > 10
