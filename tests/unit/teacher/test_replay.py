"""A step that is replayed makes what the step itself makes; what does not is found out and never used.

No GPU here: a recording is the Python of the step, run again. tests/gpu has CUDA graphs.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest
import torch
from fake_recorder import FakeRecorder
from torch import Tensor

from edgeq.teacher.compute import make_adam, make_replayed_adam, set_rate
from edgeq.teacher.replay import WARM_UP, Made, Recorder, Replay

STEPS = 9


class Refused(FakeRecorder):
    def record(self, step: Callable[[], Made]) -> Callable[[], Made]:
        raise RuntimeError("operation not permitted when stream is capturing\nmore")


class Wrong(FakeRecorder):
    """Gives the values of a step without making it."""

    def record(self, step: Callable[[], Made]) -> Callable[[], Made]:
        made = step()
        return lambda: made


class Fixed(FakeRecorder):
    """Keeps the rates of the recording, as an optimiser does that reads them on the host."""

    def __init__(self, training: Training) -> None:
        super().__init__()
        self._training = training

    def record(self, step: Callable[[], Made]) -> Callable[[], Made]:
        groups = self._training.optimizer.param_groups
        rates = [group["lr"].clone() for group in groups]

        def replay() -> Tensor:
            for group, rate in zip(groups, rates, strict=True):
                group["lr"].copy_(rate)
            return step()

        return replay


class Training:
    """A linear layer under Adam, whose rate falls."""

    def __init__(self, *, replayed: bool) -> None:
        generator = torch.Generator().manual_seed(0)
        self.weight = torch.randn(4, 3, generator=generator).requires_grad_(True)
        groups = [{"params": [self.weight], "lr": 0.1}]
        self.optimizer = make_replayed_adam(groups) if replayed else make_adam(groups)
        self.batches = torch.randn(STEPS, 8, 3, generator=generator)
        self.steps = 0

    def step(self, inputs: list[Tensor]) -> Made:
        self.steps += 1
        loss = (inputs[0] @ self.weight.T - inputs[1]).square().mean()
        self.optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        self.optimizer.step()
        return [loss.detach()]

    def run(self, recorder: Recorder | None) -> list[float]:
        replay = Replay(self.step, self.optimizer, recorder)
        losses = []
        for index, x in enumerate(self.batches):
            set_rate(self.optimizer.param_groups[0], 0.1 * (1 - index / STEPS))
            losses.append(float(replay([x, x[:, :1] * 2])[0]))
        return losses


@pytest.fixture
def plain() -> tuple[list[float], Tensor]:
    training = Training(replayed=False)
    return training.run(None), training.weight.detach()


def test_replayed_steps_make_what_the_steps_make(plain):
    recorder, training = FakeRecorder(), Training(replayed=True)
    losses = training.run(recorder)
    assert recorder.recorded == 1
    assert recorder.replayed == 2 + STEPS - WARM_UP - 1  # two of them prove it
    assert losses == pytest.approx(plain[0], rel=1e-6)
    torch.testing.assert_close(training.weight.detach(), plain[1])


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (Refused, "not permitted when stream is capturing"),
        (Wrong, "makes other values"),
        (Fixed, "keeps the rates"),
    ],
)
def test_a_recording_that_does_something_else_is_not_used(kind, words, plain, caplog):
    training = Training(replayed=True)
    recorder = kind(training) if kind is Fixed else kind()
    with caplog.at_level(logging.INFO, "edgeq"):
        losses = training.run(recorder)
    assert words in caplog.text
    assert losses == pytest.approx(plain[0], rel=1e-6)
    torch.testing.assert_close(training.weight.detach(), plain[1])


def test_without_a_recorder_every_step_is_run_once(plain):
    training = Training(replayed=False)
    assert training.run(None) == plain[0]
    assert training.steps == STEPS


def double(inputs: list[Tensor]) -> Made:
    return [2 * inputs[0], inputs[0].sum()]


def test_a_step_that_moves_nothing_is_replayed_on_what_it_is_given():
    recorder = FakeRecorder()
    replay = Replay(double, None, recorder)
    for index in range(STEPS):
        doubled, total = replay([torch.full((3,), float(index))])
        assert doubled.tolist() == [2.0 * index] * 3
        assert float(total) == 3 * index
    assert recorder.replayed == 1 + STEPS - WARM_UP - 1  # one of them proves it


class Other(FakeRecorder):
    """Gives something else."""

    def record(self, step: Callable[[], Made]) -> Callable[[], Made]:
        return lambda: [item + 1 for item in step()]


def test_a_step_that_moves_nothing_is_not_replayed_either_where_it_makes_other_values(caplog):
    replay = Replay(double, None, Other())
    with caplog.at_level(logging.INFO, "edgeq"):
        found = [float(replay([torch.full((3,), float(index))])[1]) for index in range(STEPS)]
    assert found == [3.0 * index for index in range(STEPS)]
    assert "makes other values" in caplog.text
