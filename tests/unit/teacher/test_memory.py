"""Batches are as large as wished, and no larger than memory."""

from __future__ import annotations

import pytest
import torch

from edgeq.teacher import memory
from edgeq.teacher.importer import import_teacher

TEXT = """
agraph (float[N,2,4,4] x) => (float[N,2,4,4] z)
{
    y = Relu(x)
    z = Sigmoid(y)
}
"""


@pytest.fixture
def teacher(parse_graph):
    return import_teacher(parse_graph(TEXT))


def test_the_bytes_are_those_of_every_activation_but_the_input(teacher):
    assert memory.activation_bytes(teacher, [torch.zeros(1, 2, 4, 4)]) == 2 * 2 * 4 * 4 * 4


@pytest.mark.parametrize(("room", "batch"), [(10**9, 64), (10 * 256, 10), (1, 1)])
def test_a_batch_is_what_fits_up_to_what_is_wished(teacher, monkeypatch, room, batch):
    monkeypatch.setattr(memory, "ACTIVATION_BYTES", room)
    assert memory.fitting_batch(teacher, [torch.zeros(1, 2, 4, 4)], 64) == batch
