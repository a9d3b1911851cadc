"""Recipes load for each effort; every wrong name, figure and value is told with what to do."""

from __future__ import annotations

import dataclasses

import pytest

from edgeq.core.errors import EdgeqBug, EdgeqError, InputError
from edgeq.core.recipes import (
    DEFAULT_RECIPE,
    Kind,
    Recipe,
    list_recipes,
    load_recipe,
    recipe_names,
)
from edgeq.core.specs import Effort


@pytest.mark.parametrize("effort", Effort, ids=lambda effort: effort.value)
@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_loads_for_each_effort(name, effort):
    recipe = load_recipe(name, effort=effort)
    assert (recipe.name, recipe.effort) == (name, effort)
    assert recipe.title
    assert recipe.source
    assert Recipe.from_dict(recipe.to_dict()) == recipe


@pytest.mark.parametrize("name", recipe_names())
def test_more_effort_is_never_less_work(name):
    quick, standard, most = (
        load_recipe(name, effort=effort) for effort in (Effort.QUICK, Effort.STANDARD, Effort.MAX)
    )
    for less, more in ((quick, standard), (standard, most)):
        assert less.training.steps <= more.training.steps
        assert less.synthesis.samples <= more.synthesis.samples
        assert less.digest() != more.digest()


def test_a_recipe_of_one_half_has_the_other_of_the_default():
    default, leaves = load_recipe(DEFAULT_RECIPE), load_recipe("leaves")
    assert (leaves.kind, leaves.data, leaves.numbers) == (Kind.DATA, "leaves", DEFAULT_RECIPE)
    assert leaves.training == dataclasses.replace(default.training, hard_label=0.0)


DATA = [item.name for item in list_recipes() if item.kind is not Kind.NUMBERS]
NUMBERS = [item.name for item in list_recipes() if item.kind is not Kind.DATA]
# Every recipe once or more; how two halves are joined does not depend on which they are.
PAIRS = [
    (DATA[index % len(DATA)], NUMBERS[index % len(NUMBERS)])
    for index in range(max(len(DATA), len(NUMBERS)))
]


@pytest.mark.parametrize("effort", Effort, ids=lambda effort: effort.value)
@pytest.mark.parametrize(("data", "numbers"), PAIRS)
def test_any_data_recipe_goes_with_any_numbers_recipe(data, numbers, effort):
    both = load_recipe(f"{data}+{numbers}", effort=effort)
    assert (both.data, both.numbers) == (data, numbers)
    assert both.synthesis == load_recipe(data, effort=effort).synthesis
    assert both.without_statistics == load_recipe(data).without_statistics
    assert load_recipe(both.name, effort=effort) == both


def test_the_halves_of_the_default_need_not_be_said():
    assert load_recipe("leaves+edgeq") == load_recipe("leaves")
    assert load_recipe("edgeq+edgeq") == load_recipe("edgeq")


@pytest.mark.parametrize("name", ["edgeq+leaves", "leaves+noise"])
def test_two_halves_of_one_kind_are_refused(name):
    with pytest.raises(InputError, match="does not name a data recipe and then a numbers") as found:
        load_recipe(name)
    assert "DATA+NUMBERS" in found.value.mend


@pytest.mark.parametrize("name", ["leaves+", "+edgeq", "leaves+edgeq+edgeq"])
def test_half_a_name_is_refused(name):
    with pytest.raises(InputError, match="unknown recipe"):
        load_recipe(name)


def test_the_cost_is_that_of_its_own_half():
    default, leaves = load_recipe(DEFAULT_RECIPE), load_recipe("leaves")
    assert default.cost == f"{default.synthesis.cost}, {default.training.cost}"
    assert leaves.cost == leaves.synthesis.cost == f"{leaves.synthesis.samples} samples"


def test_the_default_is_a_recipe_and_all_are_listed():
    assert DEFAULT_RECIPE in recipe_names()
    assert [recipe.name for recipe in list_recipes()] == list(recipe_names())
    assert {recipe.effort for recipe in list_recipes()} == {Effort.STANDARD}


@pytest.mark.parametrize("name", recipe_names())
def test_what_takes_a_recipes_place_needs_no_statistics(name):
    recipe = load_recipe(name)
    if not recipe.synthesis.needs_statistics:
        assert recipe.without_statistics == ""
    elif recipe.without_statistics:
        assert not load_recipe(recipe.without_statistics).synthesis.needs_statistics
    assert load_recipe(DEFAULT_RECIPE).without_statistics


def test_a_setting_replaces_one_figure_and_no_other():
    plain = load_recipe("edgeq")
    changed = load_recipe("edgeq", settings={"synthesis.samples": "7", "training.flip": "False"})
    assert changed.synthesis.samples == 7
    assert changed.training.flip is False
    assert plain == dataclasses.replace(
        changed,
        synthesis=dataclasses.replace(changed.synthesis, samples=plain.synthesis.samples),
        training=dataclasses.replace(changed.training, flip=plain.training.flip),
    )


def test_a_setting_is_stronger_than_the_effort():
    recipe = load_recipe("edgeq", effort=Effort.MAX, settings={"training.steps": "1"})
    assert recipe.training.steps == 1


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("synthesis.source", "noise", "noise"),
        ("synthesis.learning_rate", "1e-2", 0.01),
        ("training.steps", "0", 0),
        ("training.flip", "true", True),
    ],
)
def test_a_setting_is_read_as_the_kind_of_its_figure(key, text, value):
    section, _, field = key.partition(".")
    found = getattr(getattr(load_recipe("edgeq", settings={key: text}), section), field)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("key", "text", "kind"),
    [
        ("training.steps", "many", "a whole number"),
        ("training.steps", "1.5", "a whole number"),
        ("training.flip", "1", "true or false"),
        ("training.mix", "half", "a finite number"),
        ("training.weight_rate", "inf", "a finite number"),
        ("training.weight_rate", "nan", "a finite number"),
    ],
)
def test_a_value_of_the_wrong_kind_is_refused(key, text, kind):
    with pytest.raises(InputError, match=f"--set {key}={text}: this is not {kind}"):
        load_recipe("edgeq", settings={key: text})


@pytest.mark.parametrize("key", ["training.step", "steps", "training", "training.steps.more", ""])
def test_an_unknown_figure_is_refused_with_the_nearest(key):
    with pytest.raises(InputError, match="there is no such figure") as caught:
        load_recipe("edgeq", settings={key: "1"})
    assert "training.steps" in caught.value.mend


def test_an_unknown_recipe_is_refused_with_the_nearest():
    with pytest.raises(InputError, match="unknown recipe 'nois'") as caught:
        load_recipe("nois")
    assert "did you mean noise" in caught.value.mend
    assert "edgeq recipes" in caught.value.mend


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("synthesis.source", "pictures"),
        ("synthesis.samples", "0"),
        ("synthesis.batch", "-1"),
        ("synthesis.iterations", "0"),
        ("synthesis.learning_rate", "0"),
        ("synthesis.enhancement", "0"),
        ("synthesis.batch_statistics", "-1"),
        ("synthesis.sample_statistics", "-0.1"),
        ("synthesis.decorrelation", "-1"),
        ("synthesis.label", "-1"),
        ("synthesis.lowpass", "-1"),
        ("synthesis.shift", "-1"),
        ("synthesis.slack_quantile", "1.5"),
        ("training.range_samples", "0"),
        ("training.batch", "0"),
        ("training.temperature", "0"),
        ("training.steps", "-1"),
        ("training.weight_rate", "-1"),
        ("training.scale_rate", "-1"),
        ("training.bias_rate", "-1"),
        ("training.shift", "-1"),
        ("training.distillation", "-1"),
        ("training.features", "-1"),
        ("training.hard_label", "-1"),
        ("training.activation_map", "-1"),
        ("training.difficulty", "1.1"),
        ("training.mix", "1.1"),
        ("ranges.weights", "max"),
        ("ranges.activations", "max"),
        ("ranges.percentile", "101"),
        ("reconstruction.unit", "net"),
        ("reconstruction.rounding", "up"),
        ("reconstruction.activations", "never"),
        ("reconstruction.keep", "1.1"),
        ("reconstruction.prefix", "-0.1"),
        ("reconstruction.warmup", "1"),
    ],
)
def test_a_figure_outside_its_limits_is_refused(key, text):
    with pytest.raises(InputError, match=f"the figure '{key.partition('.')[2]}' is") as caught:
        load_recipe("edgeq", settings={key: text})
    assert "--set" in caught.value.mend


def test_every_numeric_figure_has_limits():
    """A figure that takes any number would let a build fail late."""
    free = []
    for section, figures in load_recipe("edgeq").tables().items():
        for name, value in figures.items():
            if isinstance(value, int | float) and not isinstance(value, bool):
                try:
                    load_recipe("edgeq", settings={f"{section}.{name}": "-1000000"})
                except EdgeqError:
                    continue
                free.append(name)
    assert free == []


def test_a_file_that_calls_itself_otherwise_is_our_own_bug(tmp_path, monkeypatch):
    from importlib import resources

    folder = tmp_path / "recipes"
    folder.mkdir()
    text = (resources.files("edgeq") / "recipes" / "noise.toml").read_text("utf-8")
    (folder / "other.toml").write_text(text, "utf-8")
    monkeypatch.setattr(resources, "files", lambda package: tmp_path)
    with pytest.raises(EdgeqBug, match="calls itself 'noise'"):
        load_recipe("other")
