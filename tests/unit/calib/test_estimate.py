"""Tables for networks that recorded no statistics: what leaves give, and what GZSQ works out from the weights."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch

from calib.estimate import table_from_weights, with_targets
from calib.problem import SynthesisProblem
from calib.statistics import batch_term, measure, targets_from_table
from calib.synthesize import synthesize
from edgeq.core.specs import BNTable, InputSpec, Layout
from edgeq.teacher.importer import import_teacher
from edgeq.teacher.teacher import with_outputs

FOLDED = """g (float[N,3,8,8] x) => (float[N,5] y)
<float[4,3,3,3] w0, float[4] b0, float[4,2,3,3] w1, float[6,4,1,1] w2, float[5,6] w3>
{
  c0 = Conv<pads=[1,1,1,1]>(x, w0, b0)
  r0 = Relu(c0)
  c1 = Conv<pads=[1,1,1,1], group=2>(r0, w1)
  r1 = Relu(c1)
  c2 = Conv(r1, w2)
  p = GlobalAveragePool(c2)
  f = Flatten(p)
  y = Gemm<transB=1>(f, w3)
}"""


@pytest.fixture(scope="module")
def folded(parse_graph) -> SynthesisProblem:
    own = InputSpec(
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
    teacher = import_teacher(parse_graph(FOLDED))
    return SynthesisProblem(teacher=teacher, table=BNTable(entries=()), inputs=(own,), classes=5)


def test_recorded_targets_stay_as_they_are(folded, make_spec):
    assert with_targets(folded, make_spec(targets="recorded"), seed=0) is folded
    assert with_targets(folded, make_spec(source="leaves", targets="leaves"), seed=0) is folded


def test_the_table_of_leaves_is_what_leaves_give_at_every_convolution(folded, make_spec):
    spec = make_spec(targets="leaves", samples=24, batch=8)
    table = with_targets(folded, spec, seed=3).table
    assert [entry.tensor for entry in table.entries] == ["c0", "c1", "c2"]
    assert {entry.source for entry in table.entries} == {"estimate"}
    x = synthesize(folded, dataclasses.replace(spec, source="leaves"), seed=3).samples
    _, activations = with_outputs(folded.teacher, ["c0", "c1", "c2"])(torch.from_numpy(x))
    for entry, a in zip(table.entries, activations, strict=True):
        assert entry.mean == pytest.approx(a.mean((0, 2, 3)).tolist(), abs=1e-5)
        assert entry.var == pytest.approx(a.var((0, 2, 3), correction=0).tolist(), rel=1e-4)
    moments = [measure(a) for a in activations]
    assert float(batch_term(moments, targets_from_table(table))) < 1e-9


def test_samples_are_optimised_against_the_table_of_leaves(folded, make_spec):
    spec = make_spec(targets="leaves", start="leaves", iterations=30, decorrelation=0.0)
    found = synthesize(with_targets(folded, spec, seed=0), spec, seed=0)
    assert found.labels.tolist() == [index % 5 for index in range(8)]
    assert found.history[-1]["loss"] < found.history[0]["loss"]


def test_the_table_of_weights_follows_the_papers_recursion(folded):
    table = table_from_weights(folded)
    assert [entry.tensor for entry in table.entries] == ["x", "c0", "c1", "c2"]
    weights = [getattr(folded.teacher.module, name).detach().numpy() for name in ("w0", "w1", "w2")]
    bias = folded.teacher.module.b0.detach().numpy()
    rows = [w.reshape(len(w), -1) for w in weights]
    mean0 = rows[0].mean(1) + bias  # 3 channels become 4: the mean of zeros
    mean1 = rows[1].mean(1) + mean0
    mean2 = rows[2].mean(1) + mean1.mean()  # 4 channels become 6
    var0 = rows[0].var(1) + 1
    var1 = rows[1].var(1) + var0
    var2 = rows[2].var(1) + np.sqrt(var1).mean() ** 2
    for entry, mean, var in zip(
        table.entries[1:], (mean0, mean1, mean2), (var0, var1, var2), strict=True
    ):
        assert entry.mean == pytest.approx(mean.tolist(), abs=1e-5)
        assert entry.var == pytest.approx(var.tolist(), rel=1e-4)
    assert (table.entries[0].mean, table.entries[0].var) == ((0.0,) * 3, (1.0,) * 3)


def test_transposed_convolutions_have_their_output_channels_on_axis_1(parse_graph, folded):
    text = """g (float[N,3,8,8] x) => (float[N,4,10,10] y) <float[3,4,3,3] w> { y = ConvTranspose(x, w) }"""
    teacher = import_teacher(parse_graph(text))
    problem = dataclasses.replace(folded, teacher=teacher, classes=None)
    (_, entry) = table_from_weights(problem).entries
    rows = teacher.module.w.detach().transpose(0, 1).flatten(1)
    assert entry.mean == pytest.approx(rows.mean(1).tolist(), abs=1e-6)


def test_a_network_without_convolutions_has_no_table(parse_graph, folded, make_spec):
    text = "g (float[N,7] x) => (float[N,5] y) <float[5,7] w> { y = Gemm<transB=1>(x, w) }"
    own = dataclasses.replace(
        folded.inputs[0],
        shape=(7,),
        layout=Layout.OTHER,
        mean=(0.0,),
        std=(1.0,),
        low=(-4.0,),
        high=(4.0,),
    )
    teacher = import_teacher(parse_graph(text))
    problem = dataclasses.replace(folded, teacher=teacher, inputs=(own,))
    for targets in ("leaves", "weights"):
        spec = make_spec(targets=targets, start="leaves", iterations=30)
        wanted = with_targets(problem, spec, seed=0)
        assert wanted.table.entries == ()
        found = synthesize(wanted, spec, seed=0)
        assert math.isfinite(found.history[-1]["loss"])
        assert found.history[-1]["label"] < found.history[0]["label"]
