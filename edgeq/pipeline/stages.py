"""The stages of a build that make files, in their order. Each returns the names of the files that it made.

`edgeq.pipeline` runs them inside a `Workspace`; another program can call them one by one with a `Job`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

import edgeq
from edgeq.core.checkpoints import FOLDER as CHECKPOINTS
from edgeq.core.checkpoints import NO_CHECKPOINTS, Checkpoints
from edgeq.core.errors import BuildError
from edgeq.core.files import read_json, write_bytes, write_json
from edgeq.core.progress import SILENT, Progress
from edgeq.core.quantized import QuantizedValues
from edgeq.core.samples import SampleSet
from edgeq.core.serial import digest_of
from edgeq.core.specs import BNTable, GraphFlavour, Layout, TargetCard
from edgeq.graph.lint import Finding
from edgeq.pipeline.given_samples import digest_samples
from edgeq.pipeline.half import measure_typing, type_model
from edgeq.pipeline.job import Job
from edgeq.pipeline.sources import digest_sources

# How many samples the student and ONNX Runtime are compared on, code by code.
CODE_SAMPLES = 32


def make_samples(job: Job, folder: Path, progress: Progress = SILENT) -> Sequence[str]:
    """Stage 4: make the sample set, or take the one that was given, with its BN table and a picture of it."""
    from edgeq.report.preview import preview_png

    checkpoints = _checkpoints(job, folder)
    found, table = find_samples(job, progress, checkpoints)
    write_json(folder / "bn_table.json", table.to_dict())
    names = found.save(folder / "samples")
    pictures = [spec for spec in job.specs if spec.layout is not Layout.OTHER]
    if pictures:
        preview = preview_png(found.feed()[pictures[0].name], pictures[0])
        write_bytes(folder / "samples" / "preview.png", preview)
        names.append("preview.png")
    checkpoints.clear()
    return ["bn_table.json", *(f"samples/{name}" for name in names)]


def _checkpoints(job: Job, folder: Path, *upstream: str) -> Checkpoints:
    """Return the checkpoints of a stage of a build in `folder`; `upstream` tells what else it reads."""
    key = digest_of([job.identity(), digest_sources(), *upstream])
    return Checkpoints(folder / CHECKPOINTS, key)


def find_samples(
    job: Job, progress: Progress = SILENT, checkpoints: Checkpoints = NO_CHECKPOINTS
) -> tuple[SampleSet, BNTable]:
    """Return the sample set that was given or is made now, and the table that it is made for."""
    from calib.estimate import with_targets
    from calib.synthesize import synthesize

    problem = job.synthesis_problem()
    if job.given is not None:
        return job.given, problem.table
    spec, seed = job.recipe.synthesis, job.options.seed
    with job.compute.session():
        problem = with_targets(problem, spec, seed=seed)
        found = synthesize(problem, spec, seed=seed, progress=progress, checkpoints=checkpoints)
    found.provenance.update(
        recipe=job.recipe.name,
        model_sha256=job.loaded.digest,
        bn_table=problem.table.digest(),
    )
    return found, problem.table


def make_values(
    job: Job, samples: SampleSet, folder: Path, progress: Progress = SILENT
) -> Sequence[str]:
    """Stage 6: find scales, codes and biases as the recipe says; keep them, and the losses."""
    from edgeq.quant.storage import save_values

    checkpoints = _checkpoints(job, folder, digest_samples(samples))
    values, history = find_values(job, samples, progress, checkpoints)
    write_json(folder / "plan.json", job.plan.to_dict())
    write_json(folder / "history.json", history)
    save_values(values, folder / "trained.safetensors")
    checkpoints.clear()
    return ["plan.json", "history.json", "trained.safetensors"]


def find_values(
    job: Job,
    samples: SampleSet,
    progress: Progress = SILENT,
    checkpoints: Checkpoints = NO_CHECKPOINTS,
) -> tuple[QuantizedValues, list[dict[str, float]]]:
    """Return scales, codes and biases as the recipe finds them, and the losses on the way."""
    from edgeq.quant.numbers import find_numbers

    problem, seed = job.training_problem(samples), job.options.seed
    with job.compute.session():
        student, history = find_numbers(
            problem, job.recipe, seed=seed, progress=progress, checkpoints=checkpoints
        )
    return student.values(), history


def write_model(
    job: Job, samples: SampleSet, folder: Path, progress: Progress = SILENT
) -> Sequence[str]:
    """Stages 7 and 8a: write Q/DQ into the user's graph, type it, and lint the result before it gets its name.

    Raises:
        BuildError: if the lint finds an error.
    """
    from edgeq.graph.insert_qdq import insert_qdq
    from edgeq.graph.lint import lint
    from edgeq.graph.regions import predict_regions
    from edgeq.quant.storage import load_values

    progress.start("write", 1, "file")
    values = load_values(folder / "trained.safetensors")
    values.require_complete(job.plan)
    written = insert_qdq(job.folded, job.plan, values, card=job.card)
    typed = type_model(job.card, written.model, samples)
    findings = lint(typed.model, job.card)
    require_no_errors(findings, job.card)
    write_bytes(folder / "model.qdq.onnx", typed.model.SerializeToString(deterministic=True))
    write_json(folder / "findings.json", [*job.findings, *written.findings, *typed.findings])
    write_json(folder / "typing.json", typed.record)
    write_json(
        folder / "lint.json",
        [{"check": item.check, "node": item.node, "what": item.what} for item in findings],
    )
    regions = () if job.options.for_dla else predict_regions(typed.model, job.card)  # of the GPU
    write_json(folder / "regions.json", [region.to_dict() for region in regions])
    progress.advance()
    quantized = sum(1 for _ in job.plan.quantized())
    progress.finish(f"{quantized} tensors quantized, lint: 0 errors, {len(findings)} warnings")
    return ["model.qdq.onnx", "findings.json", "typing.json", "lint.json", "regions.json"]


def require_no_errors(findings: Sequence[Finding], card: TargetCard) -> None:
    """Raise if the lint of what was written found an error.

    Raises:
        BuildError: with all of them.
    """
    errors = [finding for finding in findings if finding.severity.value == "error"]
    if errors:
        lines = "; ".join(f"[{item.check}] {item.what}" for item in errors)
        raise BuildError(
            f"the Q/DQ model breaks {len(errors)} rules of {card.title}: {lines}",
            why="its parser would refuse the file",
            mend="`edgeq lint` tells more of each; report this if the float model keeps the rule",
        )


def verify_model(
    job: Job, model: onnx.ModelProto, samples: SampleSet, folder: Path, progress: Progress = SILENT
) -> Sequence[str]:
    """Stage 8b: agreement with the teacher, and the student's codes against ONNX Runtime's.

    The student computes in float32, so its codes are held against those of the float32 model that was then typed;
    what FP16 moves is counted, and has no limit of its own: a code near a tie may move, and others after it.
    """
    import torch

    from deploy.code_agreement import compare_codes, read_codes, require_within_one_code
    from deploy.verify import verify_agreement
    from edgeq.graph.insert_qdq import insert_qdq
    from edgeq.quant.storage import load_values
    from edgeq.quant.student import Student

    values = load_values(folder / "trained.safetensors")
    agreement = verify_agreement(
        job.loaded.model,
        model,
        samples,
        plan=job.plan,
        has_classes=job.classes is not None,
        channel_factors=values.channel_factors,
        progress=progress,
    )
    student = Student.from_values(job.student_teacher, job.plan, values)
    twin = insert_qdq(job.folded, job.plan, values, card=job.card).model
    feed, pieces = _code_feed(job, samples)
    measured = read_codes(twin, job.plan, feed)
    if job.input.spec.batch == 0:  # a batch of one that enters such a file is part of the sample
        measured |= {
            name: measured[name].reshape(x.shape) for name, x in feed.items() if name in measured
        }
    found = []
    for index in range(pieces):
        given = {name: np.split(codes, pieces)[index] for name, codes in measured.items()}
        x = [np.split(feed[name], pieces)[index] for name in job.student_teacher.inputs]
        inputs = [torch.from_numpy(item).float() for item in x]
        found.append(student.activation_codes(*inputs, given=given))
    expected = {name: np.concatenate([codes[name] for codes in found]) for name in measured}
    codes = compare_codes(expected, measured)
    require_within_one_code(codes)
    write_json(folder / "agreement.json", agreement.to_dict())
    write_json(folder / "codes.json", {**codes.to_dict(), "largest": codes.largest})
    write_json(folder / "half.json", measure_typing(job, twin, model, feed))
    write_json(folder / "fusions.json", _read_fusions(job, model, feed))
    return ["agreement.json", "codes.json", "half.json", "fusions.json"]


def _read_fusions(
    job: Job, model: onnx.ModelProto, feed: dict[str, NDArray[Any]]
) -> dict[str, Any] | None:
    """Return what ONNX Runtime's optimiser made of the model, for the flavour that is meant for it; else None."""
    from deploy.fusions import read_fusions

    if job.card.flavour is not GraphFlavour.ORT_CPU:
        return None
    found = read_fusions(model, feed)
    return {**found.to_dict(), "summary": found.summary()}


def _code_feed(job: Job, samples: SampleSet) -> tuple[dict[str, NDArray[Any]], int]:
    """Return the samples whose codes are compared, and in how many runs ONNX Runtime takes them.

    A file of a fixed batch is run piece by piece; the codes of the pieces lie one behind the other along axis 0,
    wherever the batch is.
    """
    count, batch = min(CODE_SAMPLES, len(samples)), job.input.spec.batch
    if not batch:
        return samples.feed(slice(count)), 1
    pieces = max(1, count // batch)
    return samples.feed(np.arange(pieces * batch) % len(samples)), pieces


def evaluate_model(
    job: Job, model: onnx.ModelProto, folder: Path, progress: Progress = SILENT
) -> Sequence[str]:
    """`--eval`: top-1 before and after. Labels are read here and nowhere else."""
    from deploy.evaluate import evaluate_top1

    evaluation = None
    if job.options.eval_path is not None:
        models = {"float": job.loaded.model, "quantized": model}
        found = evaluate_top1(models, job.options.eval_path, job.input.spec, progress=progress)
        evaluation = {name: result.to_dict() for name, result in found.items()}
    write_json(folder / "evaluation.json", evaluation)
    return ["evaluation.json"]


def make_bundle(
    job: Job, model: onnx.ModelProto, samples: SampleSet, folder: Path, progress: Progress = SILENT
) -> Sequence[str]:
    """Stage 9: the kit that builds and checks the engine on the device."""
    from deploy.archive import pack_bundle
    from deploy.bundle import write_bundle

    progress.start("bundle", 1, "folder")
    result = write_bundle(
        folder / "bundle",
        qdq_model=model,
        teacher_model=job.loaded.model,
        card=job.card,
        samples=samples,
        inputs=job.specs,
        provenance={
            "edgeq": edgeq.__version__,
            "model_sha256": job.loaded.digest,
            "bits": str(job.options.bits),
            "recipe": job.recipe.name,
            "seed": job.options.seed,
        },
        extra=_dla_files(job, folder),
    )
    progress.advance()
    progress.finish(f"{len(result.files)} files for {job.card.title}")
    pack_bundle(folder / "bundle", folder / "bundle.tar.zst")
    return ["bundle.tar.zst", *(f"bundle/{name}" for name in result.files)]


def _dla_files(job: Job, folder: Path) -> dict[str, bytes]:
    names = read_json(folder / "dla.json")["files"] if job.options.for_dla else []
    return {name: (folder / name).read_bytes() for name in names}


def write_results(job: Job, folder: Path, progress: Progress = SILENT) -> Sequence[str]:
    """Gather what the stages found into `results.json`."""
    progress.start("results", 1, "file")
    dla = read_json(folder / "dla.json") if job.options.for_dla else None
    results = {
        "schema": 1,
        "model": job.options.model.name,
        "target": job.card.name,
        "runtime": job.card.runtime,
        "bits": str(job.options.bits),
        "build": job.identity(),
        "preprocessing": job.preprocessing,
        "statistics": {
            "source": job.statistics.source,
            "text": job.statistics.text,
            "trust": job.statistics.trust,
        },
        "proof": job.proof.to_dict(),
        "findings": [*read_json(folder / "findings.json"), *(dla["findings"] if dla else ())],
        "dla": dla,
        "agreement": read_json(folder / "agreement.json"),
        "codes": read_json(folder / "codes.json"),
        "typing": {
            **read_json(folder / "typing.json"),
            "against_fp32": read_json(folder / "half.json"),
        },
        "fusions": read_json(folder / "fusions.json"),
        "evaluation": read_json(folder / "evaluation.json"),
        "lint": read_json(folder / "lint.json"),
        "regions": read_json(folder / "regions.json"),
        "size_bytes": {
            "before": job.loaded.size_bytes,
            "after": (folder / "model.qdq.onnx").stat().st_size,
        },
    }
    write_json(folder / "results.json", results)
    progress.advance()
    progress.finish("results.json")
    return ["results.json"]
