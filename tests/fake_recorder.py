"""Records the Python of a step, where a GPU records its kernels: a `edgeq.teacher.replay.Recorder` without a GPU."""

from __future__ import annotations

from collections.abc import Callable

from edgeq.teacher.replay import Made


class FakeRecorder:
    """Runs the step again, as a graph would."""

    def __init__(self) -> None:
        self.recorded = self.replayed = 0

    def aside(self, step: Callable[[], Made]) -> Made:
        return step()

    def record(self, step: Callable[[], Made]) -> Callable[[], Made]:
        self.recorded += 1

        def replay() -> Made:
            self.replayed += 1
            return step()

        return replay
