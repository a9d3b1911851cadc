"""Where the loops run: precision follows the machine and the network, and float32 is what it was."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from edgeq.teacher.compute import Compute, choose_compute

HALF = Compute(half=True)


class Scores(nn.Module):
    """A product of matrices, and what a test puts behind it."""

    def __init__(self, behind) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.eye(3), requires_grad=False)
        self._behind = behind

    def forward(self, x: Tensor) -> tuple[Tensor]:
        return (self._behind(x @ self.weight),)


def test_a_network_of_products_runs_in_bfloat16():
    module, x = Scores(torch.relu), torch.ones(2, 3)
    assert HALF.for_network(module, [x]) is HALF
    with HALF.autocast():
        assert module(x)[0].dtype == torch.bfloat16
    assert x.grad is None
    assert not x.requires_grad


def test_a_network_that_mixes_types_runs_in_float32():
    module = Scores(lambda y: torch.ops.aten.addmm(torch.zeros(3).double(), y, torch.eye(3)))
    assert not HALF.for_network(module, [torch.ones(2, 3)]).half


def test_a_network_whose_values_are_not_finite_runs_in_float32():
    module = Scores(lambda y: y / (y - 1.0))
    assert not HALF.for_network(module, [torch.ones(2, 3)]).half


def test_a_network_of_float16_keeps_its_types():
    assert not HALF.for_network(Scores(torch.relu).half(), [torch.ones(2, 3).half()]).half


def test_float32_asks_the_network_nothing():
    plain = Compute()
    assert plain.for_network(nn.Identity(), []) is plain


def test_a_cpu_that_only_emulates_bfloat16_keeps_float32(monkeypatch):
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.setattr(torch.cpu, name, lambda: False, raising=False)
    assert choose_compute() == Compute()
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    assert choose_compute() == HALF
