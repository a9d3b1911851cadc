from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from deploy.board.monitor import PhaseTracker


@dataclass
class Heard:
    """Progress that adds up."""

    pct: int = 0
    stages: list[str] = field(default_factory=list)
    finished: int = 0

    def start(self, stage: str, total: int, unit: str) -> None:
        self.stages.append(stage)
        self.pct = 0

    def advance(self, n: int = 1, **figures: float) -> None:
        assert n > 0
        self.pct += n

    def finish(self, summary: str) -> None:
        self.finished += 1


@pytest.fixture
def heard() -> Heard:
    return Heard()


def test_a_phase_inside_counts_as_part_of_its_parents_step(heard: Heard) -> None:
    tracker = PhaseTracker(heard)
    tracker.start("all", None, 4)
    tracker.step("all", 0)
    assert heard.pct == 25
    tracker.start("inner", "all", 2)
    tracker.step("inner", 0)
    assert heard.pct == 37
    tracker.finish("inner")
    tracker.step("all", 1)
    assert heard.pct == 50


def test_progress_never_goes_back_and_ends_at_100(heard: Heard) -> None:
    tracker = PhaseTracker(heard)
    tracker.start("all", None, 1)
    tracker.start("inner", "all", 10)
    for step in range(10):
        tracker.step("inner", step)
    tracker.finish("inner")
    tracker.start("again", "all", 10)
    tracker.step("again", 0)
    assert heard.pct == 99
    tracker.finish("all")
    assert (heard.pct, heard.finished) == (100, 1)


def test_two_outermost_phases_are_two_stages(heard: Heard) -> None:
    tracker = PhaseTracker(heard)
    for name in ("first", "second"):
        tracker.start(name, None, 1)
        tracker.finish(name)
    assert heard.stages == ["first", "second"]


def test_an_outermost_phase_beside_the_open_one_is_not_shown(heard: Heard) -> None:
    tracker = PhaseTracker(heard)
    tracker.start("first", None, 2)
    tracker.start("beside", None, 2)
    tracker.step("beside", 0)
    tracker.finish("beside")
    assert (heard.stages, heard.pct) == (["first"], 0)


def test_a_step_of_a_phase_that_never_began_is_passed_over(heard: Heard) -> None:
    tracker = PhaseTracker(heard)
    tracker.start("all", None, 2)
    tracker.step("other", 1)
    assert heard.pct == 0


def test_a_phase_without_steps_does_not_divide_by_zero(heard: Heard) -> None:
    tracker = PhaseTracker(heard)
    tracker.start("all", None, 0)
    tracker.step("all", 0)
    assert heard.pct == 99
