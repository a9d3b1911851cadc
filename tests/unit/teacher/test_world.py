"""Processes share what they share; one alone exchanges nothing; a lost one is told as such."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import edgeq.teacher.world
from edgeq.core.errors import BuildError, DeviceError, MissingDependencyError
from edgeq.teacher.compute import choose_compute
from edgeq.teacher.world import ALONE, World, join

CPU = torch.device("cpu")


@pytest.fixture
def second_of_two(monkeypatch):
    """Let this process be the second one that torchrun started here."""
    numbers = {"TORCHELASTIC_RUN_ID": "x", "RANK": "1", "LOCAL_RANK": "1"}
    for name, value in {**numbers, "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)


def test_one_process_alone_exchanges_nothing():
    x, parameter = torch.ones(2), nn.Parameter(torch.ones(2))
    parameter.grad = torch.full((2,), 3.0)
    assert ALONE.add(x) is x
    assert ALONE.tell(x) is x
    assert ALONE.mean({"loss": 0.1}, 1.0) == {"loss": 0.1}
    assert list(ALONE.each(3, lambda index: index)) == [0, 1, 2]
    assert ALONE.part(7) == slice(0, 7)
    ALONE.add_gradients([parameter], 1.0)
    assert parameter.grad.tolist() == [3, 3]


@pytest.mark.parametrize(("size", "count"), [(2, 8), (3, 8), (3, 2), (4, 1)])
def test_the_parts_of_a_batch_follow_each_other(size, count):
    parts = [World(rank=rank, size=size).part(count) for rank in range(size)]
    assert [index for part in parts for index in range(count)[part]] == list(range(count))


def test_things_are_made_once_and_given_to_all_in_order(run_together):
    def work(world):
        made = []
        return list(world.each(5, lambda index: made.append(index) or 10 * index)), made

    outcomes = run_together(2, work)
    assert [made for _, made in outcomes] == [[0, 2, 4], [1, 3]]
    assert [found for found, _ in outcomes] == [[0, 10, 20, 30, 40]] * 2


def test_gradients_and_figures_are_those_of_the_whole_batch(run_together):
    def work(world):
        moved, still = nn.Parameter(torch.zeros(2, 2)), nn.Parameter(torch.zeros(1))
        moved.grad = torch.full((2, 2), float(world.rank))
        share = 0.25 if world.rank else 0.75
        world.add_gradients([moved, still], share)
        return moved.grad, still.grad, world.mean({"loss": world.rank}, share)

    for grad, none, figures in run_together(2, work):
        assert grad.tolist() == [[0.25, 0.25]] * 2
        assert none is None
        assert figures == {"loss": 0.25}


def test_every_process_gets_the_parameters_of_the_first(run_together):
    def work(world):
        parameter = nn.Parameter(torch.full((3,), float(world.rank)))
        world.spread([parameter])
        return parameter.tolist()

    assert run_together(3, work) == [[0.0] * 3] * 3


class Broken:
    """A link whose other end is gone."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def add(self, x):
        raise self._error


def test_a_lost_process_is_told_as_such_and_a_full_gpu_as_what_it_is(monkeypatch):
    waited = []
    monkeypatch.setattr(edgeq.teacher.world.time, "sleep", waited.append)
    lost = World(Broken(RuntimeError("Connection closed by peer\nat x.cc")), size=2)
    with pytest.raises(BuildError, match=r"is gone: Connection closed by peer\n") as told:
        lost.add(torch.ones(1))
    assert "the same command goes on" in told.value.mend
    assert waited == [edgeq.teacher.world.MERCY_S]
    full = World(Broken(torch.cuda.OutOfMemoryError("full")), size=2)
    with pytest.raises(torch.cuda.OutOfMemoryError):
        full.add(torch.ones(1))


def test_without_torchrun_a_process_is_alone(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")  # of another launcher
    assert join(CPU) is ALONE
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert join(CPU) is ALONE


def test_several_processes_need_the_extra(second_of_two, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "lightning_fabric", None)
    with pytest.raises(MissingDependencyError, match="lightning_fabric") as told:
        join(CPU)
    assert told.value.mend == "pip install 'edgeq[distributed]'"


def test_each_process_has_a_gpu_of_its_own(second_of_two, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    for name in ("auto", "cuda", "cuda:0"):
        with pytest.raises(DeviceError, match="for several processes") as told:
            choose_compute(name)
        assert "--nproc-per-node 1" in told.value.mend
