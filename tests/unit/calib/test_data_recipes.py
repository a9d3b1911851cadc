"""Every data recipe, in a few steps, on a real network; and what the figures of the published ones switch on."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import onnx
import pytest

from calib.estimate import with_targets
from calib.problem import SynthesisProblem
from calib.synthesize import synthesize
from edgeq.core.errors import InputError
from edgeq.core.recipes import Kind, list_recipes, load_recipe
from edgeq.core.specs import InputSpec, Layout
from edgeq.graph.batchnorm import read_bn_table
from edgeq.teacher.importer import import_teacher

DIGITS = Path(__file__).parents[3] / "examples" / "digits" / "digits_bn.onnx"
DATA_RECIPES = [item.name for item in list_recipes() if item.kind is not Kind.NUMBERS]


@pytest.fixture(scope="module")
def digits() -> SynthesisProblem:
    model = onnx.load(DIGITS)
    spec = InputSpec(
        name=model.graph.input[0].name,
        shape=(1, 16, 16),
        batch=None,
        dtype="float32",
        layout=Layout.NCHW,
        mean=(0.5,),
        std=(0.25,),
        low=(-2.0,),
        high=(2.0,),
    )
    return SynthesisProblem(
        teacher=import_teacher(model), table=read_bn_table(model), inputs=(spec,), classes=10
    )


def tiny(name: str, **figures: object):
    own = load_recipe(name).synthesis
    sizes = {
        "samples": 16,
        "batch": 8,
        "iterations": 3,
        "centre_iterations": 2,
        "leaves_per_sample": 0,
    }
    return dataclasses.replace(own, **sizes | figures)


@pytest.mark.parametrize("name", DATA_RECIPES)
def test_every_data_recipe_makes_legal_labelled_samples_of_a_seed(digits, name):
    spec = tiny(name)
    problem = with_targets(digits, spec, seed=0)
    found, again = (synthesize(problem, spec, seed=0) for _ in range(2))
    assert found.samples.shape == (16, 1, 16, 16)
    assert np.abs(found.samples).max() <= 2.0
    assert found.samples.std() > 0.05
    assert len({sample.tobytes() for sample in found.samples}) == 16
    assert set(found.labels.tolist()) <= set(range(10))
    assert found.samples.tobytes() == again.samples.tobytes()
    if spec.source == "optimise":
        assert len(found.history) == 3
        assert all(np.isfinite(entry["loss"]) for entry in found.history)


TERMS = {
    "zeroq": {"sample", "image"},
    "dsg": {"sample", "image", "decorrelation", "label", "variation", "norm"},
    "intraq": {"statistics", "confidence", "margin"},
    "hast": {"statistics", "label"},
    "texq": {"statistics", "label", "centre"},
    "synq": {"statistics", "label", "centre"},
    "genie": {"statistics", "image"},
}


@pytest.mark.parametrize("name", TERMS)
def test_a_published_recipe_has_the_terms_of_its_paper(digits, name):
    last = synthesize(digits, tiny(name, iterations=2), seed=0).history[-1]
    found = {key for key, value in last.items() if value != 0} - {"step", "loss"}
    assert found == TERMS[name]


@pytest.mark.parametrize("name", TERMS)
def test_the_loss_of_a_published_recipe_falls(digits, name):
    spec = tiny(name, samples=8, iterations=25, centre_iterations=5)
    losses = [entry["loss"] for entry in synthesize(digits, spec, seed=0).history]
    assert np.mean(losses[-5:]) < 0.9 * np.mean(losses[:3])


def test_crops_and_swings_change_the_samples(digits):
    for name, off in (("intraq", {"crop": 0.0}), ("genie", {"swing": 0}), ("dsg", {"flip": True})):
        full, plain = (synthesize(digits, tiny(name, **f), seed=0).samples for f in ({}, off))
        assert full.tobytes() != plain.tobytes()


def test_the_margin_begins_with_the_second_batch(digits):
    first = synthesize(digits, tiny("intraq", samples=8), seed=0)
    assert "margin" not in first.history[0]


def test_a_network_without_classes_leaves_out_what_needs_them(digits):
    bare = dataclasses.replace(digits, classes=None)
    for name in ("intraq", "texq", "synq"):
        found = synthesize(bare, tiny(name), seed=0)
        assert found.labels is None
        assert set(found.history[0]) == {"step", "statistics", "loss"}


@pytest.mark.parametrize(
    ("figures", "text"),
    [
        ({"loop": "latents"}, "'loop' is latents"),
        ({"schedule": "step"}, "'schedule' is step"),
        ({"distance": "kl"}, "'distance' is kl"),
        ({"centres": "all"}, "'centres' is all"),
        ({"margin_low": 0.9, "margin_high": 0.8}, "'margin_low' is 0.9"),
        ({"crop": 1.5}, "'crop' is 1.5"),
        ({"patience": 0}, "'patience' is 0"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_figure_out_of_its_limits_is_refused(figures, text):
    with pytest.raises(InputError, match=text):
        tiny("intraq", **figures)
