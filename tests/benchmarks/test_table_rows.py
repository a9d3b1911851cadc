from __future__ import annotations

import dataclasses
import re

import pytest
import table_rows

from edgeq.core.recipes import load_recipe, recipe_names
from edgeq.core.specs import Effort


def test_every_recipe_has_a_row_and_the_default_is_the_first():
    rows = table_rows.all_rows()
    assert rows[0] == "edgeq"
    assert set(recipe_names()) < set(rows)
    assert len(set(rows)) == len(rows)


def test_a_row_names_both_halves():
    row = table_rows.name_row(load_recipe("genie"), setting="deploy", bits="w4a4", budget="60")
    assert row == "deploy/w4a4/60/genie+edgeq"


def stamp(data: str, numbers: str, *, setting: str = "deploy", bits: str = "w8a8") -> str:
    return table_rows.stamp_row(data, numbers, setting=setting, bits=bits)


@pytest.mark.parametrize(
    ("table", "key", "value"),
    [("synthesis", "iterations", 7), ("training", "mix", 0.75), ("training", "steps", 3)],
)
def test_a_stamp_changes_with_a_figure_of_either_half(monkeypatch, table, key, value):
    before = stamp("genie", "edgeq")

    def changed(name, **options):
        recipe = load_recipe(name, **options)
        spec = dataclasses.replace(getattr(recipe, table), **{key: value})
        return dataclasses.replace(recipe, **{table: spec})

    monkeypatch.setattr(table_rows, "load_recipe", changed)
    assert stamp("genie", "edgeq") != before


@pytest.mark.parametrize(
    ("table", "key", "is_read"),
    [("synthesis", "iterations", True), ("training", "weight_rate", False)],
)
def test_of_other_efforts_a_stamp_has_the_data_half_alone(monkeypatch, table, key, is_read):
    before = stamp("genie", "edgeq")

    def changed(name, *, effort=Effort.STANDARD, **options):
        recipe = load_recipe(name, effort=effort, **options)
        if effort is not Effort.MAX:
            return recipe
        spec = dataclasses.replace(getattr(recipe, table), **{key: 7})
        return dataclasses.replace(recipe, **{table: spec})

    monkeypatch.setattr(table_rows, "load_recipe", changed)
    assert (stamp("genie", "edgeq") != before) == is_read


def test_a_stamp_changes_with_the_published_budget_but_not_with_words(monkeypatch):
    before = stamp("genie", "genie-m")

    def reworded(name, **options):
        return dataclasses.replace(load_recipe(name, **options), title="other", notes="other")

    monkeypatch.setattr(table_rows, "load_recipe", reworded)
    assert stamp("genie", "genie-m") == before
    monkeypatch.setattr(table_rows, "own_settings", lambda name: {"training.steps": "1"})
    assert stamp("genie", "genie-m") != before


def test_a_stamp_tells_what_has_8_bits_in_narrow_rows_of_deploy():
    assert stamp("genie", "mse", bits="w4a4") != stamp("genie", "mse", bits="w4a8")
    assert stamp("genie", "mse", bits="w4a8") == stamp("genie", "mse", bits="w8a8")
    narrow, wide = (stamp("genie", "mse", setting="paper", bits=bits) for bits in ("w4a4", "w8a8"))
    assert narrow == wide


def test_a_stamp_tells_that_channels_of_4_bits_are_brought_to_one_size():
    assert stamp("genie", "edgeq", bits="w4a4") != stamp("genie", "edgeq", bits="w3a3")
    assert stamp("genie", "mse", bits="w4a4") == stamp("genie", "mse", bits="w3a3")


def test_stamps_of_pairs_differ():
    names = [load_recipe(name) for name in table_rows.all_rows()]
    stamps = {stamp(item.data, item.numbers) for item in names}
    assert len(stamps) == len(names)


def test_the_commit_is_told_where_git_knows_it():
    assert re.fullmatch(r"([0-9a-f]{10,}\+?)?", table_rows.tell_commit())
