"""The main job, end to end: `run_build`, and the parts of it that stand alone."""

from __future__ import annotations

from edgeq.pipeline.dry_run import DryRun, plan_build
from edgeq.pipeline.explain import Explanation, run_explain
from edgeq.pipeline.interface import build, make_options
from edgeq.pipeline.job import Job, prepare
from edgeq.pipeline.options import BuildOptions
from edgeq.pipeline.packed_result import PackedResult
from edgeq.pipeline.run import BuildResult, run_build, run_synth
from edgeq.pipeline.weight_only import run_weight_only

__all__ = [
    "BuildOptions",
    "BuildResult",
    "DryRun",
    "Explanation",
    "Job",
    "PackedResult",
    "build",
    "make_options",
    "plan_build",
    "prepare",
    "run_build",
    "run_explain",
    "run_synth",
    "run_weight_only",
]
