"""The weighted sum: reductions, and where a network's features are taken."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from calib.problem import SynthesisProblem
from calib.terms import Terms, classifier_input
from edgeq.core.errors import CalibError
from edgeq.core.specs import BNTable
from edgeq.graph.batchnorm import read_bn_table
from edgeq.teacher.importer import import_teacher

POOLED = """g (float[N,3,8,8] x) => (float[N,4] y)
<float[4,3,3,3] w, float[4] g0, float[4] b0, float[4] m0, float[4] v0,
 float[4] g1, float[4] b1, float[4] m1, float[4] v1>
{ c = Conv (x, w) n0 = BatchNormalization (c, g0, b0, m0, v0) p = GlobalAveragePool (n0)
  n1 = BatchNormalization (p, g1, b1, m1, v1) y = Flatten (n1) }"""
HEADLESS = "g (float[N,3] x) => (float[N,3] y) { a = Relu(x) y = Softmax(a) }"


def weigh(problem: SynthesisProblem, spec, x: torch.Tensor) -> dict[str, float]:
    terms = Terms(problem, spec, seed=0)
    labels = torch.arange(len(x)) % 5
    return {key: float(value) for key, value in terms.weigh([x], terms.want(0, labels)).items()}


@pytest.fixture(scope="module")
def x() -> torch.Tensor:
    return torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def test_sums_over_layers_are_their_mean_times_their_number(problem, make_spec, x):
    mean, total = (
        weigh(problem, make_spec(sum_layers=flag, distance="std"), x) for flag in (False, True)
    )
    assert total["statistics"] == pytest.approx(2 * mean["statistics"], rel=1e-6)
    assert total["sample"] == pytest.approx(2 * mean["sample"], rel=1e-6)
    assert total["label"] == mean["label"]


def test_the_sum_over_layers_of_each_sample_is_over_those_with_positions(
    problem, parse_graph, make_spec, x
):
    """Behind a pooling a sample has no statistics of its own, and the layer no part in the sum."""
    model = parse_graph(POOLED, v0=np.ones(4, np.float32), v1=np.ones(4, np.float32))
    both = dataclasses.replace(
        problem, teacher=import_teacher(model), table=read_bn_table(model), classes=None
    )
    spec = make_spec(sum_layers=True, distance="std", slack_quantile=0.0)
    first = dataclasses.replace(both, table=BNTable(entries=both.table.entries[:1]))
    assert weigh(both, spec, x)["sample"] == pytest.approx(weigh(first, spec, x)["sample"])


def test_sums_over_channels_let_wide_layers_count_more(problem, make_spec, x):
    mean, total = (weigh(problem, make_spec(sum_channels=flag), x) for flag in (False, True))
    # The layers have four and six channels.
    assert 4 * mean["statistics"] < total["statistics"] < 6 * mean["statistics"]


def test_weights_are_factors(problem, make_spec, x):
    figures = ("batch_statistics", "image_statistics", "total_variation", "image_norm", "label")
    one = weigh(problem, make_spec(**dict.fromkeys(figures, 1.0)), x)
    three = weigh(problem, make_spec(**dict.fromkeys(figures, 3.0)), x)
    for name in ("statistics", "image", "variation", "norm", "label"):
        assert three[name] == pytest.approx(3 * one[name], rel=1e-5)


def test_a_loss_without_a_term_is_refused(problem, make_spec, x):
    weights = ("batch_statistics", "sample_statistics", "decorrelation", "label")
    with pytest.raises(CalibError, match="the recipe has no term") as caught:
        weigh(problem, make_spec(**dict.fromkeys(weights, 0.0)), x)
    assert "--recipe leaves" in caught.value.mend


def test_the_features_are_what_enters_the_classifier(problem):
    assert classifier_input(problem.teacher) == "f"


def test_a_network_without_a_classifier_has_no_margin(parse_graph):
    with pytest.raises(CalibError, match="gives the class scores") as caught:
        classifier_input(import_teacher(parse_graph(HEADLESS)))
    assert "synthesis.margin=0" in caught.value.mend


def test_the_slack_is_found_in_batches_no_larger_than_the_recipes(problem, make_spec, monkeypatch):
    rows = []
    run = Terms._run
    monkeypatch.setattr(Terms, "_run", lambda own, x: rows.append(len(x[0])) or run(own, x))
    small, large = (Terms(problem, make_spec(batch=size), seed=0) for size in (64, 512))
    assert rows == [64, 64, 64, 64, 256]
    for ours, theirs in zip(small._relaxed, large._relaxed, strict=True):
        assert ours.mean_slack == pytest.approx(theirs.mean_slack, rel=1e-4)
        assert ours.std_slack == pytest.approx(theirs.std_slack, rel=1e-4)


def test_vectors_are_held_to_the_statistics_of_their_batch(problem, parse_graph, make_spec):
    """ZeroQ and DSG weigh statistics of single samples, and vectors have none."""
    model = parse_graph(
        """g (float[N,3,8,8] x) => (float[N,4] y)
        <float[192,4] w, float[4] g, float[4] b, float[4] m, float[4] v>
        { f = Flatten(x) c = MatMul(f, w) y = BatchNormalization(c, g, b, m, v) }""",
        v=np.ones(4, np.float32),
    )
    own = dataclasses.replace(
        problem, teacher=import_teacher(model), table=read_bn_table(model), classes=None
    )
    x = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    spec = make_spec(batch_statistics=0.0, sample_statistics=2.0, slack_quantile=0.0)
    other = make_spec(batch_statistics=2.0, sample_statistics=0.0, slack_quantile=0.0)
    found = weigh(own, spec, x)
    assert found["statistics"] == weigh(own, other, x)["statistics"] > 0
    assert "sample" not in found
