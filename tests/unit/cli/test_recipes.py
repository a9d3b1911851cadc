from __future__ import annotations

import json
from typing import Any

import pytest

from edgeq.core import recipe_results
from edgeq.core.recipe_results import Drop, Measured
from edgeq.core.recipes import DEFAULT_RECIPE, load_recipe, recipe_names


def test_every_recipe_has_a_line(edgeq: Any) -> None:
    done = edgeq("recipes")
    assert done.code == 0
    assert [line.split()[0] for line in done.out.splitlines()[1:]] == list(recipe_names())


def test_one_recipe_is_shown_with_its_figures(edgeq: Any) -> None:
    done = edgeq("recipes", "--show", DEFAULT_RECIPE)
    recipe = load_recipe(DEFAULT_RECIPE)
    assert done.code == 0
    assert recipe.source in done.out
    figures = dict(
        line.split(maxsplit=1) for line in done.out.splitlines() if "." in line.split()[0]
    )
    assert figures["training.steps"] == str(recipe.training.steps)


def test_an_unknown_recipe_ends_with_3(edgeq: Any) -> None:
    done = edgeq("recipes", "--show", "no-such-method")
    assert done.code == 3
    assert "unknown recipe 'no-such-method'" in done.err


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the default be measured, and nothing else."""
    drops = {DEFAULT_RECIPE: {"w4a4": Drop(points=0.5, spread=0.125, seeds=3)}}
    found = Measured(network="net", float_pct=90.0, setting="deploy", seconds=60.0, drops=drops)
    monkeypatch.setattr(recipe_results, "load_measured", lambda: found)


@pytest.mark.usefixtures("measured")
def test_the_list_has_what_was_measured_and_published(edgeq: Any) -> None:
    done = edgeq("recipes")
    lines = {line.split()[0]: line for line in done.out.splitlines()}
    assert "0.50 ± 0.12" in lines[DEFAULT_RECIPE]
    assert "0.50" not in lines["genie"]
    assert "69.66 % (ResNet-18 on ImageNet, w4a4)" in lines["genie"]
    assert "net, deploy, 60 s" in done.err


@pytest.mark.usefixtures("measured")
def test_json_has_cost_and_figures_of_every_recipe(edgeq: Any) -> None:
    rows = {row["name"]: row for row in json.loads(edgeq("recipes", "--json").out)}
    assert set(rows) == set(recipe_names())
    assert rows["qdrop"]["cost"] == load_recipe("qdrop").cost
    assert rows["qdrop"]["published"][0]["source"].startswith("README")
    assert rows["qdrop"]["measured"] is None
    assert rows[DEFAULT_RECIPE]["measured"]["drops"][DEFAULT_RECIPE]["w4a4"]["points"] == 0.5
    assert rows[DEFAULT_RECIPE]["published"] == []
    shown = json.loads(edgeq("recipes", "--json", "--show", "qdrop").out)
    assert shown == rows["qdrop"]


@pytest.mark.usefixtures("measured")
def test_one_recipe_is_shown_with_settings_and_sources(edgeq: Any) -> None:
    out = edgeq("recipes", "--show", "genie+genie-m").out
    assert "first and last layer at 8 bits; 1,024 synthetic pictures" in out
    assert "not measured" in out
    out = edgeq("recipes", "--show", DEFAULT_RECIPE).out
    assert "none at hand" in out
    assert "w4a4: drop 0.50 ± 0.12 points" in out


def test_what_was_not_measured_is_said(edgeq: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipe_results, "load_measured", lambda: None)
    assert "not measured" in edgeq("recipes", "--show", DEFAULT_RECIPE).out
    assert edgeq("recipes").code == 0
