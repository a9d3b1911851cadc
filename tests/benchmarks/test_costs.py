from __future__ import annotations

import pytest
from budgets import Line
from costs import Costs, time_line


def test_what_is_on_record_is_not_timed_again(tmp_path):
    path, timed = tmp_path / "costs.json", []

    def measure() -> Line:
        timed.append(1)
        return Line(start=0.5, each=0.02)

    first = Costs(path).line("data/zeroq", "a", measure)
    assert Costs(path).line("data/zeroq", "a", measure) == first == Line(start=0.5, each=0.02)
    assert len(timed) == 1
    Costs(path).line("data/zeroq", "other figures", measure)
    assert len(timed) == 2


def test_seconds_that_others_on_the_machine_add_do_not_count():
    calls = []

    def run(steps: int) -> tuple[float, float]:
        calls.append(steps)
        return steps, 1.0 + 0.1 * steps + (0.7 if len(calls) % 4 == 0 else 0.0)

    line = time_line(run)
    assert (line.start, line.each) == pytest.approx((1.0, 0.1))


def test_a_quick_step_is_timed_over_many():
    calls = []

    def run(steps: int) -> tuple[float, float]:
        calls.append(steps)
        return steps, 0.02 * steps

    time_line(run)
    assert max(calls) == 128  # 2.5 s more than two steps
