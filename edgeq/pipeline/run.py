"""`edgeq build` and `synth`: the stages one after the other, resumed where a run was cut off."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import onnx

from edgeq.core.files import digest_file, read_json
from edgeq.core.progress import NoProgress, Progress
from edgeq.core.samples import SampleSet
from edgeq.core.serial import digest_of
from edgeq.pipeline import stages
from edgeq.pipeline.dla import make_dla
from edgeq.pipeline.job import Job, prepare
from edgeq.pipeline.options import BuildOptions
from edgeq.pipeline.ranks import follow, lead
from edgeq.pipeline.report import report_inputs, write_report
from edgeq.pipeline.workspace import Stage, Workspace
from edgeq.report.words import match_pcts, say_fusions


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildResult:
    """What a build made.

    Attributes:
        folder: where it lies.
        results: the content of `results.json`.
        seconds: of every stage that ran, in this run or an earlier one; of one that was cut off, since it went on.
    """

    folder: Path
    results: dict[str, Any]
    seconds: dict[str, float]

    def to_dict(self) -> dict[str, Any]:
        """Return the plain form."""
        return {"folder": str(self.folder), "seconds": self.seconds, **self.results}

    def summary_lines(self) -> list[str]:
        """Return what a user tells a colleague."""
        agreement, codes = self.results["agreement"], self.results["codes"]
        lines = [f"{self.results['bits']} for {self.results['target']}"]
        shares = [
            f"{pct:.1f} % of {count} {kind or 'samples'}"
            for kind, count, pct in match_pcts(agreement)
            if pct is not None
        ]
        if shares:
            lines.append(f"same top class as the teacher on {', and on '.join(shares)}")
        lines += [
            f"output '{o['tensor']}': SQNR {o['sqnr_db']:.1f} dB" for o in agreement["outputs"]
        ]
        lines.append(f"student and ONNX Runtime: largest difference in codes {codes['largest']}")
        if self.results["typing"]["against_fp32"] is not None:
            lines.append(_say_typing(self.results["typing"]))
        lines += say_fusions(self.results)
        if self.results["evaluation"] is not None:
            before, after = (self.results["evaluation"][key] for key in ("float", "quantized"))
            lines.append(
                f"top-1 on {after['total']} pictures: {before['top1_pct']:.2f} % before, "
                f"{after['top1_pct']:.2f} % after ({after['top1_pct'] - before['top1_pct']:+.2f})"
            )
        known = self.results["statistics"]
        lines.append(f"statistics: {known['text']}; trust: {known['trust']}")
        size = self.results["size_bytes"]
        lines.append(
            f"size: {size['before'] / 1e3:.0f} kB before, {size['after'] / 1e3:.0f} kB after"
        )
        lines += [f"note: {finding}" for finding in self.results["findings"]]
        if self.results["runtime"] == "tensorrt":
            where = "" if self.results["dla"] is None else " for DLA"
            lines.append(f"no engine was built here; bundle/build.sh builds it{where} on the board")
        else:
            lines.append("bundle/run.sh checks the model in ONNX Runtime, which needs no engine")
        return lines


def _say_typing(typing: dict[str, Any]) -> str:
    cost = typing["against_fp32"]
    moved = sum(item["differing"] for item in cost["codes"]["tensors"])
    count = sum(item["count"] for item in cost["codes"]["tensors"])
    worst = min(cost["sqnr_db"].values(), default=0.0)
    return (
        f"{typing['flavour']}: {typing['half']} nodes in FP16, {len(typing['kept'])} in FP32; "
        f"outputs against float32 at {worst:.1f} dB, {moved} of {count} codes moved (by {cost['largest']} at most)"
    )


def run_build(
    options: BuildOptions,
    progress: Progress | None = None,
    *,
    on_claim: Callable[[Path], None] | None = None,
) -> BuildResult:
    """Run every stage and return the result; stages that are finished in `options.out` are kept.

    Under torchrun every process calls this and gets the result; rank 0 alone writes, and tells `progress`.

    Args:
        options: what was asked.
        progress: told of every stage.
        on_claim: called with the folder once it belongs to this build; before, nothing may be written there.

    Raises:
        EdgeqError: what is wrong; nothing is left in the folder if neither a stage nor a batch of samples was finished.
    """
    progress = progress or NoProgress()
    job = prepare(options, progress)
    world = job.compute.world
    if world.rank > 0:
        return cast("BuildResult", follow(job))
    work = Workspace(options.out, job.identity(), overwrite=options.overwrite)
    with work.claimed():
        if on_claim is not None:
            on_claim(work.folder)
        for stage in _stages(job, work.folder, progress):
            work.run(stage, progress)
    results = read_json(work.folder / "results.json")
    return world.tell(BuildResult(folder=work.folder, results=results, seconds=work.seconds()))


def _stages(job: Job, folder: Path, progress: Progress) -> Sequence[Stage]:
    """Return the stages in their order."""

    def samples() -> SampleSet:
        return SampleSet.load(folder / "samples")

    def qdq() -> onnx.ModelProto:
        return onnx.load(folder / "model.qdq.onnx")

    return (
        _synthesize(job, folder, progress),
        Stage(
            name="train",
            after=("synthesize",),
            produce=lambda: lead(
                job, "train", lambda: stages.make_values(job, samples(), folder, progress)
            ),
        ),
        Stage(
            name="write",
            after=("synthesize", "train"),
            produce=lambda: stages.write_model(job, samples(), folder, progress),
        ),
        Stage(
            name="verify",
            after=("synthesize", "train", "write"),
            produce=lambda: stages.verify_model(job, qdq(), samples(), folder, progress),
        ),
        Stage(
            name="evaluate",
            after=("write",),
            inputs={"pictures": _digest_pictures(job.options.eval_path)},
            produce=lambda: stages.evaluate_model(job, qdq(), folder, progress),
        ),
        *_dla(job, folder, progress),
        Stage(
            name="bundle",
            after=("synthesize", "write", *(("dla",) if job.options.for_dla else ())),
            produce=lambda: stages.make_bundle(job, qdq(), samples(), folder, progress),
        ),
        Stage(
            name="results",
            after=("write", "verify", "evaluate", *(("dla",) if job.options.for_dla else ())),
            inputs={"model": job.options.model.name, "preprocessing": job.preprocessing},
            produce=lambda: stages.write_results(job, folder, progress),
        ),
        Stage(
            name="report",
            after=("synthesize", "train", "write", "results"),
            inputs=report_inputs(job, folder),
            produce=lambda: write_report(job, folder, progress),
        ),
    )


def _dla(job: Job, folder: Path, progress: Progress) -> Sequence[Stage]:
    if not job.options.for_dla:
        return ()

    def produce() -> Sequence[str]:
        model, samples = onnx.load(folder / "model.qdq.onnx"), SampleSet.load(folder / "samples")
        return make_dla(job, model, samples, folder, progress)

    return (Stage(name="dla", after=("synthesize", "write"), produce=produce),)


def _synthesize(job: Job, folder: Path, progress: Progress) -> Stage:
    def produce() -> Sequence[str]:
        return lead(job, "synthesize", lambda: stages.make_samples(job, folder, progress))

    return Stage(name="synthesize", produce=produce)


def run_synth(options: BuildOptions, progress: Progress | None = None) -> Path:
    """Make the sample set alone, in `options.out`; return the folder that `edgeq compare --samples` takes.

    Raises:
        EdgeqError: as `run_build`.
    """
    progress = progress or NoProgress()
    job = prepare(options, progress)
    world = job.compute.world
    if world.rank > 0:
        return cast("Path", follow(job))
    work = Workspace(options.out, job.identity(), overwrite=options.overwrite)
    with work.claimed():
        work.run(_synthesize(job, work.folder, progress), progress)
    return world.tell(work.folder / "samples")


def _digest_pictures(path: Path | None) -> str | None:
    """Return a digest of what `--eval` names: a zip's bytes, or a folder's file names, sizes and times."""
    if path is None or path.is_file():
        return digest_file(path) if path else None
    files = sorted(item for item in path.rglob("*") if item.is_file())
    return digest_of(
        [[str(f.relative_to(path)), f.stat().st_size, f.stat().st_mtime_ns] for f in files]
    )
