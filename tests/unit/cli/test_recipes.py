from __future__ import annotations

from typing import Any

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
