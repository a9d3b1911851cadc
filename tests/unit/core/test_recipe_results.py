"""Published figures are in the files of the recipes, measured ones in a file that need not be there."""

from __future__ import annotations

import json
from importlib import resources

import pytest

from edgeq.core import recipe_results
from edgeq.core.errors import InputError
from edgeq.core.recipe_results import Drop, Measured, Published
from edgeq.core.recipes import load_recipe, recipe_names

MEASURED = Measured(
    network="net",
    float_pct=90.0,
    setting="deploy",
    seconds=60.0,
    drops={"genie": {"w2a4": Drop(points=9.0, spread=None, seeds=1),
                     "w4a4": Drop(points=1.25, spread=0.5, seeds=3)}},
)  # fmt: skip


@pytest.mark.parametrize("name", recipe_names())
def test_every_published_figure_tells_what_it_is_of(name):
    for item in recipe_results.published_for(load_recipe(name)):
        assert 0 < item.top1_pct <= (item.float_pct or 100) <= 100
        assert all((item.network, item.bits, item.setting, item.pictures, item.source))
        assert Published.from_dict(item.to_dict()) == item


def test_a_pair_has_what_was_published_for_each_half_once():
    of_pair = recipe_results.published_for(load_recipe("synq+synq-qat"))
    assert of_pair == recipe_results.published_for(load_recipe("synq"))
    assert str(of_pair[0]) == "92.76 of 93.89 % (ResNet-20 on CIFAR-10, w4a4)"


def test_the_default_was_published_nowhere():
    assert recipe_results.published_for(load_recipe("edgeq")) == ()


def test_an_unknown_key_of_a_published_figure_is_refused(monkeypatch):
    file = {"published": [{"network": "net", "acc": 1.0}]}
    monkeypatch.setattr(recipe_results, "read_recipe", lambda name: file)
    with pytest.raises(InputError, match="unknown key 'acc'"):
        recipe_results.published_for(load_recipe("edgeq"))


def test_without_a_file_nothing_was_measured(tmp_path, monkeypatch):
    genie = load_recipe("genie")
    monkeypatch.setattr(resources, "files", lambda package: tmp_path)
    assert recipe_results.load_measured() is None
    assert recipe_results.measured_for(genie, None) == {}


def test_what_was_measured_is_read_by_the_name_of_the_recipe(tmp_path, monkeypatch):
    (tmp_path / "recipes").mkdir()
    text = json.dumps(MEASURED.to_dict())
    (tmp_path / "recipes" / "measured.json").write_text(text, "utf-8")
    genie, dsg = load_recipe("genie"), load_recipe("dsg")
    monkeypatch.setattr(resources, "files", lambda package: tmp_path)
    found = recipe_results.load_measured()
    assert found == MEASURED
    drops = recipe_results.measured_for(genie, found)
    assert {bits: str(drop) for bits, drop in drops.items()} == {
        "w4a4": "1.25 ± 0.50",
        "w2a4": "9.00 (1 seed)",
    }
    assert recipe_results.measured_for(dsg, found) == {}
