"""The page, the picture and the figures of `edgeq recipes` are what the records say; nothing is hidden."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from typing import Any

import pytest
import results_page
from table_cells import Cells, read_cells
from table_page import list_pairs, measured, table_section
from table_plot import draw_table
from table_rows import all_rows, stamp_row

NOW = {
    bits: stamp_row("edgeq", "edgeq", setting="deploy", bits=bits)
    for bits in ("w8a8", "w4a8", "w4a4", "w3a3", "w2a4")
}


def _run(drop: float, **figures: Any) -> dict[str, Any]:
    return {
        "top1_pct": 88.5 - drop, "drop_points": drop, "cpu_s": 60.0, "wall_s": 90.0, "peak_mb": 900,
        "teacher_forward": 120000, "teacher_backward": 4000, "data_scale": 0.25, "numbers_scale": 1.0,
        "budget_s": 60.0, "machine": "m", "versions": "v", "commit": "abc", **figures,
    }  # fmt: skip


def _cells(**rows: dict[str, dict[str, Any]]) -> Cells:
    """Return the cells of rows of edgeq+edgeq, named BITS_BUDGET, and of one other pair."""
    record = {}
    for name, seeds in rows.items():
        bits, budget = name.split("_")
        runs = {seed: {"stamp": NOW[bits], **run} for seed, run in seeds.items()}
        record[f"deploy/{bits}/{budget}/edgeq+edgeq"] = runs
    stamp = stamp_row("genie", "genie-m", setting="deploy", bits="w4a4")
    other = _run(2.0, stamp=stamp)
    return read_cells({**record, "deploy/w4a4/60/genie+genie-m": {"0": other}})


THREE = {str(seed): _run(drop) for seed, drop in enumerate((0.5, 1.0, 1.5))}


def _line(text: str, data: str, numbers: str) -> list[str]:
    start = f"| {data} | {numbers} |"
    line = next(line for line in text.splitlines() if line.startswith(start))
    return [cell.strip() for cell in line.strip("|").split("|")][2:]


def test_the_files_in_the_tree_are_those_of_the_records():
    for path, text in results_page.make_files().items():
        found = path.read_text("utf-8") if path.exists() else None
        assert found == text, f"{path.name}: run python benchmarks/results_page.py"


def test_without_a_record_the_page_says_what_is_missing():
    text = table_section({})
    assert text.count("Not measured yet: 60 s; 180 s; 600 s; the budgets that were published.") == 2
    assert ".svg" not in text
    assert measured({}) is None


def test_a_row_has_mean_spread_and_costs_and_dashes_where_nothing_was_measured():
    text = table_section(_cells(w4a4_60=THREE))
    costs = ["120k / 4.0k", "60", "90", "900"]
    assert _line(text, "edgeq", "edgeq") == ["-", "-", "**1.00 ± 0.50**", "-", "-", *costs]
    assert _line(text, "genie", "genie-m")[2] == "2.00 (1 seed)"
    assert _line(text, "edgeq", "qdrop") == ["-"] * 9
    assert "Not measured yet: 180 s; 600 s" in text
    assert "Commits: abc" in text


def test_a_cell_tells_how_many_classes_changed_where_every_seed_has_the_figure():
    changed = {seed: {**run, "changed_pct": 3.0 + int(seed)} for seed, run in THREE.items()}
    text = table_section(_cells(w4a4_60=changed))
    assert _line(text, "edgeq", "edgeq")[2] == "**1.00 ± 0.50** / 4.00"
    some = {**changed, "1": THREE["1"]}
    assert _line(table_section(_cells(w4a4_60=some)), "edgeq", "edgeq")[2] == "**1.00 ± 0.50**"


def test_every_pair_of_the_table_is_a_row_of_a_budget_that_has_one():
    text = table_section(_cells(w4a4_60=THREE))
    assert len(list_pairs([])) == len(all_rows())
    for pair in list_pairs([]):
        assert text.count("| {} | {} |".format(*pair.split("+"))) == 1


def test_published_budgets_state_their_scale_and_their_cap():
    text = table_section(_cells(w4a4_own={"0": _run(1.0, budget_s=300.0)}))
    part = text.partition("#### The budgets that were published")[2]
    assert "more than 300 s" in part
    assert _line(part, "edgeq", "edgeq")[-1] == "0.25 / 1"


def test_seeds_of_other_figures_are_not_mixed_in():
    mixed = {**THREE, "3": _run(50.0, stamp="before"), "4": _run(50.0, stamp="")}
    assert _line(table_section(_cells(w4a4_60=mixed)), "edgeq", "edgeq")[2] == "**1.00 ± 0.50**"


def test_a_row_whose_recipe_has_changed_is_marked_and_told_nowhere_else():
    old = {"0": _run(0.25, stamp="before")}
    cells = _cells(w4a4_60=old)
    assert _line(table_section(cells), "edgeq", "edgeq")[2] == "0.25 (1 seed) *"
    found = measured(cells)
    assert found is not None
    assert set(found.drops) == {"genie+genie-m"}
    assert "edgeq+edgeq" not in draw_table(cells)


def test_a_recipe_that_is_gone_stays_on_the_page_and_is_marked():
    cells = read_cells({"paper/w8a8/60/bygone+edgeq": {"0": _run(1.0)}})
    assert _line(table_section(cells), "bygone", "edgeq")[0] == "1.00 (1 seed) *"


def test_recipes_are_told_what_was_measured_in_one_setting_and_budget():
    found = measured(_cells(w4a4_60=THREE, w8a8_180=THREE))
    assert found is not None
    assert (found.setting, found.seconds, found.float_pct) == ("deploy", 60.0, 88.5)
    assert {bits: str(drop) for bits, drop in found.drops["edgeq"].items()} == {
        "w4a4": "1.00 ± 0.50"
    }


@pytest.fixture(scope="module")
def picture() -> str:
    seconds = {"0": _run(-0.2, cpu_s=180.0)}
    own = {"0": _run(0.5, cpu_s=300.0)}
    return draw_table(_cells(w4a4_60=THREE, w4a4_180=seconds, w4a4_own=own))


def test_the_picture_has_a_dot_a_cell_inside_its_panel(picture: str):
    circles = list(ET.fromstring(picture).iter("{http://www.w3.org/2000/svg}circle"))
    dots = {title.text: item for item in circles for title in item}
    assert set(dots) == {
        "edgeq+edgeq: 1.00 points, 60 s",
        "edgeq+edgeq: -0.20 points, 180 s",
        "edgeq+edgeq: 0.50 points, 300 s",
        "genie+genie-m: 2.00 points, 60 s",
    }
    low = dots["edgeq+edgeq: -0.20 points, 180 s"]
    high = dots["genie+genie-m: 2.00 points, 60 s"]
    assert float(high.get("cy", "")) < float(low.get("cy", "")) <= 190
    assert float(high.get("cx", "")) < float(low.get("cx", "")) < 168
    assert dots["edgeq+edgeq: 0.50 points, 300 s"].get("class") == "default own"


def test_the_picture_follows_dark_pages_and_is_the_same_each_time(picture: str):
    assert "prefers-color-scheme: dark" in picture
    assert picture == draw_table(
        _cells(
            w4a4_own={"0": _run(0.5, cpu_s=300.0)},
            w4a4_180={"0": _run(-0.2, cpu_s=180.0)},
            w4a4_60=THREE,
        )
    )


def test_a_build_of_a_larger_network_is_told_with_its_device():
    run = {
        "bits": "w4a4", "samples": 1024, "wall_s": 301.4, "versions": "v",
        "stages_s": {"synthesize": 99.6, "train": 180.2, "write": 1.0},
    }  # fmt: skip
    text = results_page.image_section({"resnet18/standard/NVIDIA H200": run})
    assert "| resnet18 | standard | w4a4 | 1024 | NVIDIA H200 | 301 | 100 | 180 | v |" in text
