from __future__ import annotations

import re

import pytest

from edgeq.report.curves import HEIGHT, POINTS, WIDTH, draw_curve


def points(line: str) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in re.findall(r"[ML]([\d.]+) ([\d.]+)", line)]


def test_a_linear_axis_begins_at_zero():
    curve = draw_curve("loss", [4, 2, 1])
    assert (curve.low, curve.high, curve.first, curve.last) == (0, 4, 4, 1)
    assert points(curve.line) == [
        (0, 1),
        (WIDTH / 2, HEIGHT / 2),
        (WIDTH, pytest.approx(1 + 78 * 3 / 4)),
    ]


def test_a_logarithmic_axis_spans_the_values():
    curve = draw_curve("amplitude", [100, 10, 1], is_log=True)
    assert (curve.low, curve.high) == (pytest.approx(1), pytest.approx(100))
    assert [y for _, y in points(curve.line)] == [1, HEIGHT / 2, HEIGHT - 1]


def test_a_value_without_logarithm_is_a_gap():
    assert draw_curve("amplitude", [4, 0, 2, 1], is_log=True).line.count("M") == 2


def test_many_steps_are_averaged_to_what_a_screen_shows():
    curve = draw_curve("loss", [index % 2 for index in range(10 * POINTS)])
    assert len(points(curve.line)) == POINTS
    assert (curve.first, curve.high) == (0.5, 0.5)


@pytest.mark.parametrize("values", [[3.0], [0.0], [0.0, 0.0]])
def test_a_flat_curve_is_a_line_across(values):
    line = draw_curve("loss", values).line
    assert line.startswith("M0.0 ")
    assert f"H{WIDTH}" in line or f"L{WIDTH}" in line


def test_nothing_positive_on_a_logarithmic_axis_draws_nothing():
    assert points(draw_curve("amplitude", [0.0, 0.0], is_log=True).line) == []
