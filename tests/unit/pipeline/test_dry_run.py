"""The plan tells times as people do, and what would make a long build shorter."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from edgeq.core.specs import Effort
from edgeq.pipeline.dry_run import DryRun, tell_duration


@pytest.mark.parametrize(
    ("seconds", "told"),
    [(0.4, "0 s"), (119, "119 s"), (500, "8 min"), (7100, "118 min"), (31719, "8.8 h")],
)
def test_a_time_is_told_in_the_unit_that_suits_it(seconds: float, told: str) -> None:
    assert tell_duration(seconds) == told


@pytest.mark.parametrize(
    ("hours", "effort", "device", "told"),
    [
        (9, Effort.STANDARD, "cpu", "shorter: --effort quick or a machine with a GPU"),
        (9, Effort.QUICK, "cpu", "shorter: a machine with a GPU"),
        (9, Effort.STANDARD, "cuda", "shorter: --effort quick"),
        (9, Effort.QUICK, "cuda", ""),
        (0.1, Effort.STANDARD, "cpu", ""),
    ],
)
def test_a_long_build_is_told_what_is_shorter(
    hours: float, effort: Effort, device: str, told: str
) -> None:
    job: Any = SimpleNamespace(
        recipe=SimpleNamespace(effort=effort),
        compute=SimpleNamespace(device=torch.device(device)),
    )
    plan = DryRun(
        job=job, synthesis_s=3600 * hours, training_s=0.0, memory_mb=1.0, gpu_memory_mb=0.0
    )
    assert " ".join(plan.advice()).partition(";")[0] == told
