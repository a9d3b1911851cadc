from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor

from deploy.cards import load_card
from edgeq.core.plan import QuantPlan
from edgeq.core.recipes import TrainingSpec, load_recipe
from edgeq.core.samples import SampleSet
from edgeq.core.specs import BitSpec, InputSpec, Layout
from edgeq.graph.placement import plan_placement
from edgeq.quant.student import Student, first_scales
from edgeq.quant.train import TrainingProblem
from edgeq.teacher.importer import import_teacher
from edgeq.teacher.teacher import Teacher

CARD = load_card("jetson-orin")

# A residual block whose shortcut is a Slice and a Pad (CIFAR ResNet): r0 has a quantized and a float reader, and the
# padded tensor shares r0's range.
NET = """g (float[N,3,8,8] x) => (float[N,5] y)
<float[4,3,3,3] w0, float[4] b0, float[4,1,3,3] w1, float[4] b1, float[8,4,1,1] w2, float[8] b2,
 float[5,8] w3, float[5] b3,
 int64[2] from = {0,0}, int64[2] to = {100,100}, int64[2] axes = {2,3}, int64[2] steps = {2,2},
 int64[8] pads = {0,2,0,0,0,2,0,0}>
{
  c0 = Conv<pads=[1,1,1,1]>(x, w0, b0)
  r0 = Relu(c0)
  c1 = Conv<group=4,pads=[1,1,1,1],strides=[2,2]>(r0, w1, b1)
  r1 = Relu(c1)
  c2 = Conv(r1, w2, b2)
  cut = Slice(r0, from, to, axes, steps)
  wide = Pad(cut, pads)
  s = Add(c2, wide)
  r2 = Relu(s)
  p = GlobalAveragePool(r2)
  f = Flatten(p)
  y = Gemm<transB=1>(f, w3, b3)
}"""

INPUT = InputSpec(
    name="x",
    shape=(3, 8, 8),
    batch=None,
    dtype="float32",
    layout=Layout.NCHW,
    mean=(0.5,) * 3,
    std=(0.25,) * 3,
    low=(-2.0,) * 3,
    high=(2.0,) * 3,
)


@dataclass(frozen=True)
class Case:
    """A float network, its placement, and inputs."""

    model: onnx.ModelProto
    teacher: Teacher
    plan: QuantPlan
    x: Tensor

    def student(self) -> Student:
        """Return an untrained student."""
        scales = first_scales(self.teacher, self.plan, [(x,) for x in self.x.split(8)])
        return Student(self.teacher, self.plan, scales)


MakeCase = Callable[..., Case]


@pytest.fixture(scope="session")
def make_case(parse_graph) -> MakeCase:
    """Return a function from widths (and a graph's text and initializers) to a case."""

    def make(
        bits: str = "w4a4", *, text: str = NET, inputs=(INPUT,), same: bool = True, **arrays: object
    ) -> Case:
        model = parse_graph(text, **arrays)
        widths = BitSpec.parse(bits, first_last_same=same)
        plan = plan_placement(model, card=CARD, bits=widths, inputs=inputs)
        x = torch.randn(16, 3, 8, 8, generator=torch.Generator().manual_seed(0)).clamp(-2, 2)
        return Case(model=model, teacher=import_teacher(model), plan=plan, x=x)

    return make


@pytest.fixture(scope="session")
def make_problem() -> Callable[..., TrainingProblem]:
    """Return a function from a case to its training problem."""

    def make(case: Case, **fields: object) -> TrainingProblem:
        count = len(case.x)
        samples = SampleSet(
            input_name="x",
            samples=case.x.numpy(),
            labels=np.arange(count, dtype=np.int64) % 5,
            provenance={},
        )
        problem = TrainingProblem(
            teacher=case.teacher,
            plan=case.plan,
            samples=samples,
            inputs=(INPUT,),
            blocks=("r2",),
            last_map="r2",
        )
        return dataclasses.replace(problem, **fields)

    return make


@pytest.fixture(scope="session")
def make_spec() -> Callable[..., TrainingSpec]:
    """Return a function that makes the default recipe tiny, with every term in it."""
    tiny = dataclasses.replace(
        load_recipe("edgeq").training,
        range_samples=16,
        steps=4,
        batch=8,
        weight_rate=0.03,
        scale_rate=0.003,
        bias_rate=0.001,
        temperature=4.0,
        distillation=1.0,
        features=5.0,
        hard_label=0.1,
        difficulty=0.9,
        activation_map=1.0,
        flip=True,
        shift=1,
        mix=0.5,
    )

    def make(**figures: object) -> TrainingSpec:
        return dataclasses.replace(tiny, **figures)

    return make


@pytest.fixture(scope="module")
def problem(case, make_problem):
    """Return what is trained for the `case` of a test module."""
    return make_problem(case)
