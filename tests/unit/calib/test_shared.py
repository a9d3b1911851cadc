"""Synthesis by several processes: whoever makes a batch, the sample set is the one that a single process makes."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from calib.synthesize import synthesize
from edgeq.core.checkpoints import Checkpoints
from edgeq.core.progress import NoProgress
from edgeq.teacher.compute import Compute


class Steps(NoProgress):
    """Counts."""

    def __init__(self) -> None:
        self.total = self.done = 0

    def start(self, stage: str, total: int, unit: str) -> None:
        self.total = total

    def advance(self, n: int = 1, **figures: float) -> None:
        self.done += n


BLOCKS = {
    "all that is random": {"soft_inception": 1.0, "crop": 0.3, "swing": 1, "margin": 0.0},
    "centres": {"centres": "class", "centre_statistics": 1.0, "centre_texture": 1.0},
    "each looks at those before": {"margin": 1.0, "margin_low": 0.5, "margin_high": 0.6},
    "nothing optimised": {"source": "leaves"},
}


@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("blocks", BLOCKS)
def test_the_sample_set_is_that_of_one_process(problem, make_spec, run_together, blocks, size):
    # Three batches: the last turn has not enough for two processes, nor the only one for four.
    spec = make_spec(samples=12, iterations=3, centre_iterations=2, **BLOCKS[blocks])
    wanted = synthesize(problem, spec, seed=0)

    def work(world):
        shared = dataclasses.replace(problem, compute=Compute(world=world))
        steps = Steps()
        return synthesize(shared, spec, seed=0, progress=steps), steps

    for found, steps in run_together(size, work):
        assert found.samples.tobytes() == wanted.samples.tobytes()
        assert np.array_equal(found.labels, wanted.labels)
        assert found.history == wanted.history
        assert steps.done <= steps.total


def test_the_first_process_has_as_many_steps_as_it_says(problem, make_spec, run_together):
    spec = make_spec(samples=12, iterations=3, centre_iterations=2, centres="pooled")

    def work(world):
        steps = Steps()
        shared = dataclasses.replace(problem, compute=Compute(world=world))
        synthesize(shared, spec, seed=0, progress=steps)
        return steps

    first, second = run_together(2, work)
    assert first.done == first.total == 2 * 3 + 2  # of three batches, and of two batches of classes
    assert second.done == 3 + 2


@pytest.mark.parametrize("blocks", [{}, BLOCKS["each looks at those before"]])
def test_all_processes_go_on_after_the_batches_that_the_first_has_kept(
    problem, make_spec, run_together, tmp_path, blocks
):
    spec = make_spec(samples=12, iterations=3, **blocks)
    wanted = synthesize(problem, spec, seed=0, checkpoints=Checkpoints(tmp_path, "key"))
    (tmp_path / "batch-2.safetensors").unlink()

    def work(world):
        shared = dataclasses.replace(problem, compute=Compute(world=world))
        kept, steps = Checkpoints(tmp_path if world.rank == 0 else None, "key"), Steps()
        return synthesize(shared, spec, seed=0, progress=steps, checkpoints=kept), steps

    (first, steps), (second, _) = run_together(2, work)
    assert first.samples.tobytes() == second.samples.tobytes() == wanted.samples.tobytes()
    assert first.history == second.history == wanted.history
    assert steps.done == steps.total == 3
