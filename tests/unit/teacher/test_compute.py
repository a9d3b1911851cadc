"""Where the loops run: precision follows the machine and the network, and float32 is what it was."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from torch import Tensor, nn

from edgeq.core.errors import DeviceError
from edgeq.teacher.compute import Compute, choose_compute, make_adam

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


@pytest.fixture
def two_gpus(monkeypatch):
    """Let torch see two equal GPUs of the Ampere generation; nothing can be computed on them."""
    answers = {
        "is_available": lambda: True,
        "device_count": lambda: 2,
        "get_device_capability": lambda device: (8, 6),
        "get_device_name": lambda device: "RTX",
    }
    for name, answer in answers.items():
        monkeypatch.setattr(torch.cuda, name, answer)


@pytest.mark.parametrize(
    ("name", "index"), [("auto", 0), ("cuda", 0), ("cuda:0", 0), ("cuda:1", 1)]
)
def test_a_gpu_is_taken_by_its_number(two_gpus, name, index):
    assert choose_compute(name) == Compute(half=True, device=torch.device("cuda", index))


def test_the_cpu_is_taken_where_it_is_asked_for_or_alone(two_gpus, monkeypatch):
    assert choose_compute("cpu").device == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_compute("auto").device == torch.device("cpu")


def test_an_older_gpu_computes_in_float32(two_gpus, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    assert not choose_compute("cuda").half


def test_two_equal_gpus_are_one_device_to_the_results(two_gpus):
    assert choose_compute("cuda:0").to_dict() == choose_compute("cuda:1").to_dict()
    assert choose_compute("cuda").to_dict() != choose_compute("cpu").to_dict()
    assert "RTX (cuda:1)" in choose_compute("cuda:1").describe()


def test_a_gpu_that_is_not_there_is_told(two_gpus, monkeypatch):
    with pytest.raises(DeviceError, match="there is no GPU 2") as told:
        choose_compute("cuda:2")
    assert "--device cuda:1" in told.value.mend
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", None)
    with pytest.raises(DeviceError, match="--device cuda: torch has no CUDA device") as told:
        choose_compute("cuda")
    assert "built without CUDA" in told.value.why
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    with pytest.raises(DeviceError) as told:
        choose_compute("cuda")
    assert "no driver" in told.value.why


def fill(compute: Compute) -> None:
    """Run out of memory inside a session, whose cuDNN adds in one order only."""
    with compute.session():
        assert torch.backends.cudnn.deterministic
        message = "CUDA out of memory. Tried to allocate 2 GiB."
        raise torch.cuda.OutOfMemoryError(message)


def test_a_full_gpu_is_told_with_what_makes_it_fit(two_gpus, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext())
    with pytest.raises(DeviceError, match=r"RTX \(cuda:0\) has no memory left") as told:
        fill(choose_compute("cuda"))
    assert "training.batch" in told.value.mend
    assert not torch.backends.cudnn.deterministic


def test_memory_of_a_gpu_is_told_in_megabytes(two_gpus, monkeypatch):
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 3 << 20)
    assert choose_compute("cuda").peak_mb() == 3
    assert choose_compute("cpu").peak_mb() == 0


def test_on_the_cpu_a_session_changes_nothing():
    with Compute().session():
        assert not torch.backends.cudnn.deterministic


def test_adam_of_the_one_kernel_moves_as_torchs_own():
    start = torch.randn(50, generator=torch.Generator().manual_seed(0))
    moved = []
    for make in (make_adam, torch.optim.Adam):
        x = start.clone().requires_grad_(True)
        optimizer = make([{"params": [x], "lr": 0.1}], betas=(0.9, 0.99))
        for _ in range(5):
            optimizer.zero_grad()
            torch.autograd.backward(x.square().sum())
            optimizer.step()
        moved.append(x.detach())
    assert make_adam([start.requires_grad_(True)]).defaults["fused"]
    torch.testing.assert_close(*moved)
