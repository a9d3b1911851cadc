"""Everything that is known of a build before anything is computed or written.

Entry: `prepare`: reads, imports, proves, folds and plans; whatever speaks against the build is raised here.
`pipeline.placing` has the parts of it that need no statistics.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx
from numpy.typing import NDArray

import edgeq
from edgeq.core.errors import InputError, ModelError
from edgeq.core.plan import QuantPlan
from edgeq.core.progress import NoProgress, Progress
from edgeq.core.recipes import Recipe, load_recipe
from edgeq.core.samples import SampleSet
from edgeq.core.specs import InputSpec, TargetCard
from edgeq.graph.inputs import InputReport
from edgeq.graph.read import LoadedModel
from edgeq.pipeline.given_samples import digest_samples, read_samples
from edgeq.pipeline.options import BuildOptions
from edgeq.pipeline.outputs import count_classes, watched_tensors
from edgeq.pipeline.placing import place, read_model, settle_flavour
from edgeq.pipeline.statistics import Statistics, find_statistics, settle_recipe
from edgeq.teacher.compute import Compute, choose_compute
from edgeq.teacher.proof import ProofResult
from edgeq.teacher.teacher import Teacher

if TYPE_CHECKING:
    from calib.problem import SynthesisProblem
    from edgeq.quant.train import TrainingProblem


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A build that nothing speaks against any more; nothing has been written.

    Attributes:
        options: what was asked.
        card: the target, with the flavour of the graph that is written.
        recipe: with the figures of the effort and of --set.
        loaded: the user's model, at an opset that the target takes.
        inputs: its inputs in file order, and how their preprocessing was chosen.
        teacher: of the model as it is, BatchNormalization kept; it runs any batch size. Where its first output is
            probabilities of classes, it gives the scores before their Softmax, and so does the student's.
        proof: that the teacher computes what ONNX Runtime computes.
        statistics: the BN table and where it comes from.
        folded: the model with BatchNormalization folded; what Q/DQ is written into.
        student_teacher: of `folded`: what the student copies and is trained against.
        plan: the placement on `folded`.
        blocks, last_map: see `quant.train.TrainingProblem`.
        classes: number of classes of the first output, or None where it gives no class scores.
        given: the sample set that the user gave, or None where one is synthesised.
        compute: where samples are made and the student is trained, and in which precision.
        findings: what the user should know, one sentence each.
    """

    options: BuildOptions
    card: TargetCard
    recipe: Recipe
    loaded: LoadedModel
    inputs: tuple[InputReport, ...]
    teacher: Teacher
    proof: ProofResult
    statistics: Statistics
    folded: onnx.ModelProto
    student_teacher: Teacher
    plan: QuantPlan
    blocks: tuple[str, ...]
    last_map: str | None
    classes: int | None
    given: SampleSet | None
    compute: Compute
    findings: tuple[str, ...]

    @property
    def input(self) -> InputReport:
        """Return the first input."""
        return self.inputs[0]

    @property
    def specs(self) -> tuple[InputSpec, ...]:
        """Return the inputs themselves, in file order."""
        return tuple(report.spec for report in self.inputs)

    @property
    def preprocessing(self) -> str:
        """Return how the preprocessing of every input was chosen, in words."""
        told = [f"'{report.spec.name}': {report.chosen_by}" for report in self.inputs]
        return self.input.chosen_by if len(told) == 1 else "; ".join(told)

    def synthesis_problem(self) -> SynthesisProblem:
        """Return what the samples are made for."""
        from calib.problem import SynthesisProblem

        return SynthesisProblem(
            teacher=self.teacher,
            table=self.statistics.table,
            inputs=self.specs,
            classes=self.classes,
            compute=self.compute,
        )

    def training_problem(self, samples: SampleSet) -> TrainingProblem:
        """Return what the student is trained for, and on what."""
        from edgeq.quant.train import TrainingProblem

        return TrainingProblem(
            teacher=self.student_teacher,
            plan=self.plan,
            samples=samples,
            inputs=self.specs,
            blocks=self.blocks,
            last_map=self.last_map,
            compute=self.compute,
        )

    def identity(self) -> dict[str, Any]:
        """Return everything that the build's results depend on."""
        import numpy as np
        import onnxruntime
        import torch

        return {
            "edgeq": edgeq.__version__,
            "model": self.loaded.digest,
            "target": self.card.digest(),
            "bits": self.options.bits.to_dict(),
            "seed": self.options.seed,
            "recipe": self.recipe.to_dict(),
            "input": self.input.spec.to_dict(),
            **(
                {"other_inputs": [spec.to_dict() for spec in self.specs[1:]]}
                if self.specs[1:]
                else {}
            ),
            "teacher": self.statistics.weights_digest,
            **({"dla": True} if self.options.for_dla else {}),
            **({"samples": digest_samples(self.given)} if self.given is not None else {}),
            "versions": {
                "torch": torch.__version__,
                "onnx": onnx.__version__,
                "onnxruntime": onnxruntime.__version__,
                "numpy": np.__version__,
            },
            # Another number of threads, or another instruction set, adds in another order and rounds differently.
            "machine": {
                "threads": torch.get_num_threads(),
                "cpu": torch.backends.cpu.get_cpu_capability(),
                "compute": self.compute.to_dict(),
            },
        }


def prepare(options: BuildOptions, progress: Progress | None = None) -> Job:
    """Read, import, prove and plan; raise whatever speaks against the build. Nothing is written.

    Raises:
        EdgeqError: of the kind that fits; see `core.errors`.
    """
    from deploy.cards import Capability, load_card, require_capability
    from deploy.flavours import choose_flavour
    from edgeq.graph.fit_target import fit_opset
    from edgeq.graph.round_half import without_bfloat16
    from edgeq.teacher.free_batch import free_batch
    from edgeq.teacher.importer import import_teacher
    from edgeq.teacher.logits import give_logits
    from edgeq.teacher.proof import prove_equal, require_any_batch, require_same

    progress = progress or NoProgress()
    compute = choose_compute(options.device)
    card = load_card(options.target)
    require_capability(card, Capability.INT8)
    options = settle_flavour(options, card)
    recipe = load_recipe(options.recipe, effort=options.effort, settings=options.settings)
    progress.start("read", 1, "file")
    loaded, reports = read_model(options)
    specs = [report.spec for report in reports]
    card = choose_flavour(card, options.flavour, half_types=loaded.half_types)
    original, loaded = loaded, fit_opset(loaded, card=card)
    progress.advance()
    progress.finish(f"{len(loaded.model.graph.node)} nodes, input {_describe_inputs(reports)}")
    teacher = free_batch(import_teacher(loaded.inferred), specs)
    outputs = _run_once(teacher, specs)
    if options.eval_path is not None:
        _require_pictures(options.eval_path, specs, outputs)
    provable = without_bfloat16(loaded.model)
    proof = prove_equal(teacher, provable, specs, seed=options.seed, progress=progress)
    if loaded is not original:
        require_same(without_bfloat16(original.model), provable, specs, seed=options.seed)
    if specs[0].batch:
        require_any_batch(teacher, specs, seed=options.seed)
    progress.start("statistics", 1, "table")
    statistics = find_statistics(loaded.inferred, options.teacher_weights)
    if options.samples_path is None:
        recipe, statistics = settle_recipe(recipe, statistics, options.settings)
    recipe, fitted = _fit_batches(recipe, teacher, specs)
    progress.advance()
    progress.finish(f"{statistics.text}; trust: {statistics.trust}")
    progress.start("placement", 1, "plan")
    placed = place(options, card, loaded, specs)
    progress.advance()
    quantized = sum(1 for _ in placed.plan.quantized())
    if not quantized:
        raise ModelError(
            f"nothing in the model can be quantized for {card.title}",
            why="it has no convolution or matrix product with a constant weight, or each has a reason to stay float",
            mend=f"edgeq explain {options.model.name} --target {options.target} shows the reason of each",
        )
    progress.finish(f"{quantized} tensors quantized to {options.bits} for {card.title}")
    blocks, last_map = watched_tensors(placed.inferred, placed.plan)
    classes, unlabelled = count_classes(loaded.inferred, outputs, specs)
    student_teacher = free_batch(import_teacher(placed.inferred), specs)
    if classes is not None:
        teacher, student_teacher = give_logits(teacher), give_logits(student_teacher)
    given, told = _read_given(options, specs, teacher, classes)
    return Job(
        options=options,
        card=card,
        recipe=recipe,
        loaded=loaded,
        inputs=reports,
        teacher=teacher,
        proof=proof,
        statistics=statistics,
        folded=placed.model,
        student_teacher=student_teacher,
        plan=placed.plan,
        blocks=blocks,
        last_map=last_map if classes is not None else None,
        classes=classes,
        given=given,
        compute=compute,
        findings=(
            *loaded.findings,
            *(finding for report in reports for finding in report.findings),
            *statistics.findings,
            *placed.findings,
            *fitted,
            *unlabelled,
            *told,
        ),
    )


def _read_given(
    options: BuildOptions, specs: Sequence[InputSpec], teacher: Teacher, classes: int | None
) -> tuple[SampleSet | None, tuple[str, ...]]:
    """Return the sample set of `--samples`, and what it means for the result."""
    path = options.samples_path
    if path is None:
        return None, ()
    found = read_samples(path, specs, teacher, classes)
    finding = (
        f"the {len(found)} samples of {path.name} were given and not synthesised here: if they are real data, "
        "the result is not zero-shot, and its agreement is measured on the data that it was trained on"
    )
    return found, (finding,)


def _run_once(teacher: Teacher, specs: Sequence[InputSpec]) -> dict[str, NDArray[Any]]:
    """Return the teacher's outputs for inputs of zeros, by name."""
    import numpy as np

    from edgeq.teacher.execution import run_module, to_array

    zeros = {spec.name: np.zeros((spec.batch or 1, *spec.shape), spec.dtype) for spec in specs}
    outputs = run_module(teacher.module, zeros)
    return dict(zip(teacher.outputs, map(to_array, outputs), strict=True))


def _fit_batches(
    recipe: Recipe, teacher: Teacher, specs: Sequence[InputSpec]
) -> tuple[Recipe, tuple[str, ...]]:
    """Return the recipe with batches that fit into memory, and what was changed in words."""
    import torch

    from edgeq.teacher.memory import fitting_batch

    sample = [torch.zeros(1, *spec.shape) for spec in specs]
    wished = {
        "synthesis": recipe.synthesis.batch,
        "reconstruction": recipe.reconstruction.batch,
        "training": recipe.training.batch,
    }
    if not recipe.reconstruction.iterations:
        del wished["reconstruction"]
    fitting = {name: fitting_batch(teacher, sample, batch) for name, batch in wished.items()}
    findings = tuple(
        f"{name}: batches of {fitting[name]} instead of {batch}, so that the activations fit into memory"
        for name, batch in wished.items()
        if fitting[name] != batch
    )
    fitted: dict[str, Any] = {
        name: dataclasses.replace(getattr(recipe, name), batch=batch)
        for name, batch in fitting.items()
    }
    return dataclasses.replace(recipe, **fitted), findings


def _require_pictures(
    path: Path, specs: Sequence[InputSpec], outputs: dict[str, NDArray[Any]]
) -> None:
    """Raise if `--eval` cannot work: hours of training may lie between here and there.

    Raises:
        InputError: see `deploy.evaluate.require_pictures`; also for a path that the file system refuses.
    """
    from deploy.evaluate import require_pictures

    if len(specs) > 1:
        raise InputError(
            f"--eval for a network of {len(specs)} inputs",
            why="a labelled picture feeds one input, and there is nothing to feed the others with",
            mend="leave --eval out, and measure the result on your own data",
        )
    try:
        require_pictures(path, specs[0], outputs)
    except OSError as error:
        raise InputError(
            f"--eval cannot be read: {error.strerror}",
            why="pictures are read from one folder a class, in a folder or a zip",
            mend="check the path, or mend its permissions",
            path=path,
        ) from error


def _describe_inputs(reports: Sequence[InputReport]) -> str:
    return ", ".join(
        f"'{report.spec.name}' {'x'.join(map(str, report.spec.shape))} ({report.chosen_by})"
        for report in reports
    )
