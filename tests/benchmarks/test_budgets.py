from __future__ import annotations

import dataclasses

import budgets
import pytest

from edgeq.core.recipes import load_recipe
from edgeq.core.specs import Effort

LINE = budgets.Line(start=1.0, each=0.1)


def _efforts(name: str) -> list[budgets.SynthesisSpec]:
    return [load_recipe(name, effort=effort).synthesis for effort in Effort]


def _cut(name: str, seconds: float, line: budgets.Line = LINE) -> budgets.Cut:
    return budgets.cut_data(_efforts(name), load_recipe(name).synthesis, line, seconds)


def test_a_line_goes_through_both_short_runs():
    line = budgets.fit_line((2, 1.5), (12, 3.5))
    assert (line.start, line.each) == pytest.approx((1.1, 0.2))
    assert line.work(line.seconds(40)) == pytest.approx(40)


def test_a_start_below_zero_is_noise_and_the_longer_run_decides():
    line = budgets.fit_line((2, 0.1), (10, 2.0))
    assert (line.start, line.each) == pytest.approx((0.0, 0.2))


def test_seconds_below_the_start_leave_no_work():
    assert LINE.work(0.5) == 0


@pytest.mark.parametrize("seconds", [8, 30, 90, 300])
@pytest.mark.parametrize("name", ["edgeq", "genie", "intraq", "synq", "zeroq"])
def test_a_data_half_takes_the_seconds_that_it_is_given(name: str, seconds: float):
    cut = _cut(name, seconds)
    spec = load_recipe(name, settings=cut.settings).synthesis
    taken = LINE.seconds(budgets.data_work(spec))
    assert 0.8 * seconds < taken <= seconds
    own = budgets.data_work(load_recipe(name).synthesis)
    assert cut.scale == pytest.approx(budgets.data_work(spec) / own)


def test_a_plateau_waits_as_many_of_fewer_steps():
    own = load_recipe("zeroq", effort=Effort.QUICK).synthesis
    seconds = LINE.seconds(budgets.data_work(own) / 3)
    assert int(_cut("zeroq", seconds).settings["synthesis.patience"]) == own.patience // 3


def test_more_samples_than_the_literature_has_are_not_made():
    settings = _cut("edgeq", LINE.seconds(1e6)).settings
    assert int(settings["synthesis.samples"]) == budgets.MOST_SAMPLES
    assert int(settings["synthesis.iterations"]) > load_recipe("edgeq").synthesis.iterations


def test_nothing_is_cut_where_nothing_is_optimised():
    assert _cut("noise", 5) == budgets.Cut(settings={}, scale=1.0)


def test_published_figures_are_kept_where_they_fit_and_cut_where_they_do_not():
    own = dataclasses.replace(load_recipe("hast").synthesis, samples=5120, iterations=1000)
    whole = budgets.cap_data(own, LINE, LINE.seconds(budgets.data_work(own)) + 0.01)
    assert (whole.settings["synthesis.iterations"], whole.scale) == ("1000", 1.0)
    half = budgets.cap_data(own, LINE, LINE.seconds(budgets.data_work(own) / 2) + 0.01)
    assert (half.settings["synthesis.iterations"], half.scale) == ("500", 0.5)


@pytest.mark.parametrize(
    ("name", "key"),
    [("edgeq", "training.steps"), ("qdrop", "reconstruction.iterations")],
)
def test_a_numbers_half_is_stretched_to_its_seconds_but_not_beyond_its_own_if_told(
    name: str, key: str
):
    recipe = load_recipe(name)
    work = budgets.numbers_work(recipe)
    long = budgets.cut_numbers(recipe, LINE, LINE.seconds(2 * work))
    assert (long.settings, long.scale) == ({key: str(2 * work)}, 2.0)
    kept = budgets.cut_numbers(recipe, LINE, LINE.seconds(2 * work), most=True)
    assert (kept.settings, kept.scale) == ({key: str(work)}, 1.0)


def test_ranges_alone_have_nothing_to_cut():
    assert budgets.cut_numbers(load_recipe("minmax"), LINE, 5).settings == {}
