from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from calib.units import standardise
from edgeq.core.specs import InputSpec, Layout
from edgeq.teacher.importer import import_teacher
from edgeq.teacher.teacher import run_and_capture

PICTURE = InputSpec(
    name="x",
    shape=(2, 3, 3),
    batch=None,
    dtype="float32",
    layout=Layout.NCHW,
    mean=(0.5, 0.4),
    std=(0.25, 0.2),
    low=(-2.0, -2.0),
    high=(2.0, 3.0),
)
BYTES = dataclasses.replace(
    PICTURE,
    dtype="uint8",
    mean=(0.0, 0.0),
    std=(1 / 255, 1 / 255),
    low=(0.0, 0.0),
    high=(255.0, 255.0),
)
VECTOR = InputSpec(
    name="t",
    shape=(4,),
    batch=None,
    dtype="float32",
    layout=Layout.OTHER,
    mean=(100.0,),
    std=(5.0,),
    low=(90.0,),
    high=(110.0,),
)
NET = """g (float[N,2,3,3] x, float[N,4] t) => (float[N,2,3,3] y, float[N,4] u)
{ y = Identity (x) z = Neg (t) u = Neg (z) }"""


def test_inputs_in_a_unit_of_about_one_are_left_alone(parse_graph):
    teacher = import_teacher(parse_graph(NET))
    plain = dataclasses.replace(VECTOR, mean=(0.0,), std=(1.0,), low=(-4.0,), high=(4.0,))
    same, units = standardise(teacher, [PICTURE, plain])
    assert same is teacher
    assert [unit.standard for unit in units] == [PICTURE, plain]


def test_the_teacher_takes_standard_values_and_sees_its_own(parse_graph):
    teacher = import_teacher(parse_graph(NET))
    changed, units = standardise(teacher, [BYTES, VECTOR])
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(5, 2, 3, 3, generator=generator) * 4 - 2
    t = torch.rand(5, 4, generator=generator) * 4 - 2
    seen = changed.module(x, t)
    torch.testing.assert_close(seen[0], 127.5 + 63.75 * x)
    torch.testing.assert_close(seen[1], 100 + 5 * t)
    for unit, own, standard in zip(units, seen, (x, t), strict=True):
        restored = unit.restore(standard)
        assert restored.dtype == unit.spec.dtype
        wanted = own.round() if unit.spec.dtype == "uint8" else own
        np.testing.assert_allclose(restored, wanted, rtol=1e-6)
    assert teacher.module(x, t)[0] is x


@pytest.mark.parametrize("spec", [BYTES, VECTOR])
def test_the_legal_box_is_that_of_the_file(parse_graph, spec):
    pair = [BYTES, VECTOR]
    _, units = standardise(import_teacher(parse_graph(NET)), pair)
    unit = units[pair.index(spec)]
    box = (unit.standard.low[0], unit.standard.high[0])
    assert box == pytest.approx((-2, 2))
    restored = unit.restore(torch.full((1, *spec.shape), 9.0))
    assert set(restored.flatten().tolist()) == {spec.high[0]}


def test_statistics_of_an_input_are_in_the_models_unit(parse_graph):
    """As a BatchNormalization recorded them that reads the input itself."""
    changed, _ = standardise(import_teacher(parse_graph(NET)), [BYTES, VECTOR])
    grey, t = torch.zeros(1, 2, 3, 3), torch.ones(1, 4)
    _, seen = run_and_capture(changed, [grey, t], ["x", "t"])
    assert seen["x"].unique().tolist() == pytest.approx([127.5])
    assert seen["t"].unique().tolist() == pytest.approx([105.0])


def test_a_tensor_may_have_the_name_that_torch_gives_the_input(parse_graph):
    model = parse_graph(
        "g (float[N,2,3,3] x) => (float[N,2,3,3] y) { x_1 = Neg (x) y = Neg (x_1) }"
    )
    model.graph.input[0].name = model.graph.node[0].input[0] = "x.1"
    changed, _ = standardise(import_teacher(model), [dataclasses.replace(BYTES, name="x.1")])
    y = changed.module(torch.zeros(1, 2, 3, 3))[0]
    assert y.unique().tolist() == pytest.approx([127.5])
