"""The stages that several processes work on: rank 0 says when one begins, the others take part and write nothing.

Only rank 0 knows which stages are finished in the folder; the others hear of those that are run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from edgeq.core.samples import SampleSet
from edgeq.pipeline import stages
from edgeq.pipeline.job import Job


@dataclass(frozen=True, slots=True)
class _Begin:
    """What rank 0 says at the beginning of a shared stage."""

    stage: str


def lead(job: Job, stage: str, produce: Callable[[], Sequence[str]]) -> Sequence[str]:
    """Run `produce`, the part of rank 0 in `stage`, with the others."""
    job.compute.world.tell(_Begin(stage))
    return produce()


def follow(job: Job) -> Any:
    """Take part in the stages that rank 0 begins, until it says its result; return that."""
    while isinstance(said := job.compute.world.tell(None), _Begin):
        if said.stage == "synthesize":
            stages.find_samples(job)
        else:
            stages.find_values(job, SampleSet.load(job.options.out / "samples"))
    return said
