"""The weighted terms of the loss that samples are moved down."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from calib.centres import Centres
from calib.distances import DISTANCES
from calib.diversity import (
    ClassCentres,
    Spectrum,
    gram_spectrum,
    margin_term,
    spectral_gram_term,
)
from calib.inside import measure_inside
from calib.labels import draw_confidence, hard_cross_entropy, soft_inception
from calib.priors import image_norm, image_statistics, total_variation
from calib.problem import SynthesisProblem, Wanted
from calib.replayed import ReplayedTerms
from calib.statistics import (
    LayerStatistics,
    Moments,
    batch_term,
    pool_batches,
    sample_term,
    targets_from_table,
    with_slack,
)
from calib.swing import add_swing
from calib.view import as_nchw
from edgeq.core.errors import CalibError
from edgeq.core.recipes import SynthesisSpec
from edgeq.core.seeds import derive_seed
from edgeq.core.specs import Layout
from edgeq.teacher.teacher import Teacher, with_outputs

# How many noise images set the slack, rounded up to whole batches. The paper is recalled to use 1,024; the quantile
# over channels is stable to 1 % from 128 on.
SLACK_SAMPLES = 256


class Terms:
    """The loss of one run; what stays the same for all its batches is computed once."""

    def __init__(
        self,
        problem: SynthesisProblem,
        spec: SynthesisSpec,
        *,
        seed: int,
        centres: Centres | None = None,
    ) -> None:
        self._problem = problem
        self._spec = spec
        self._seed = seed
        self._centres = centres
        captured = [entry.tensor for entry in problem.table.entries]
        self._layers = len(captured)
        self._features: ClassCentres | None = None
        if spec.margin > 0 and problem.classes is not None:
            self._features = ClassCentres(problem.classes)
            captured.append(classifier_input(problem.teacher))
        self._module = with_outputs(problem.teacher, captured)
        measure_inside(self._module, self._layers)
        self._offsets = self._generator("swing")
        add_swing(self._module, spec.swing, self._offsets)
        self._distance = DISTANCES[spec.distance]
        self._targets = targets_from_table(problem.table, problem.compute.device)
        self._through_network: Callable[[Sequence[Tensor], Wanted], dict[str, Tensor]]
        self._through_network = self._network_terms
        recorder = problem.compute.recorder()
        if recorder is not None and spec.swing == 0 and spec.margin == 0:  # both choose on the host
            self._through_network = ReplayedTerms(self._network_terms, recorder)
        self._spectrum: Spectrum | None = None
        self._relaxed: Sequence[LayerStatistics] = self._targets
        if spec.slack_quantile > 0:
            self._relaxed = with_slack(
                self._targets,
                self._moments_of_noise(),
                quantile=spec.slack_quantile,
                relative=spec.distance == "relative",
            )

    def want(self, batch: int, labels: Tensor) -> Wanted:
        """Return what the samples of one batch, of the classes `labels` [N], are to be.

        What is random in the batch depends on its number alone, and not on the batches that this process made before.
        """
        self._offsets.manual_seed(derive_seed(self._seed, "synthesize", "swing", str(batch)))
        confidence = None
        if self._spec.soft_inception > 0:
            generator = self._generator("confidence", str(batch))
            drawn = draw_confidence(len(labels), self._spec.soft_inception_low, generator)
            confidence = drawn.to(labels.device)
        centres = self._features.of(labels) if self._features is not None else None
        return Wanted(labels=labels, confidence=confidence, centres=centres)

    def keep(self, x: Sequence[Tensor], labels: Tensor) -> None:
        """Remember the features of finished samples, which later ones keep their distance from."""
        if self._features is not None:
            with torch.no_grad():
                self._features.add(self._run(x)[2][0].flatten(1), labels)

    def weigh(self, x: Sequence[Tensor], wanted: Wanted) -> dict[str, Tensor]:
        """Return the weighted terms of the loss, each []; those of weight 0 are left out.

        Raises:
            CalibError: if all are.
        """
        terms = self._through_network(x, wanted) | self._picture_terms(x)
        if not terms:
            raise CalibError(
                "nothing moves the samples: the recipe has no term, of a weight above 0, that this network can have",
                why="terms on classes need a classifier, terms on pictures a picture, terms on statistics a "
                "BatchNormalization",
                mend="pass --set synthesis.batch_statistics=1, or take --recipe leaves",
            )
        return terms

    def _network_terms(self, x: Sequence[Tensor], wanted: Wanted) -> dict[str, Tensor]:
        """Return the terms that the teacher has a say in."""
        outputs, moments, features = self._run(x)
        terms = self._statistics_terms(moments, wanted)
        if self._problem.classes is not None:
            terms |= self._label_terms(outputs[0], wanted)
        if wanted.centres is not None:
            spec = self._spec
            found = margin_term(
                features[0].flatten(1).float(),
                wanted.centres,
                low=spec.margin_low,
                high=spec.margin_high,
            )
            terms["margin"] = spec.margin * found
        return terms

    def _run(
        self, x: Sequence[Tensor]
    ) -> tuple[tuple[Tensor, ...], tuple[Moments, ...], tuple[Tensor, ...]]:
        """Return outputs, moments of each layer and, for the margin, the features; in the problem's precision."""
        with self._problem.compute.autocast():
            outputs, captured = self._module(*x)
        return outputs, captured[: self._layers], captured[self._layers :]

    def _statistics_terms(self, moments: Sequence[Moments], wanted: Wanted) -> dict[str, Tensor]:
        spec = self._spec
        terms = {}
        has_samples = any(m.sample_mean is not None for m in moments)
        # Vectors have no statistics of single samples: those of the batch stand in where the recipe has no others.
        weight = spec.batch_statistics or (0.0 if has_samples else spec.sample_statistics)
        if moments and weight > 0:
            found = batch_term(
                moments,
                self._targets,
                distance=self._distance,
                sum_channels=spec.sum_channels,
            )
            layers = self._layers if spec.sum_layers else 1
            terms["statistics"] = weight * layers * found
        if spec.sample_statistics > 0 and has_samples:
            found = sample_term(
                moments,
                self._relaxed,
                enhancement=spec.enhancement,
                distance=self._distance,
                sum_channels=spec.sum_channels,
            )
            took_part = sum(m.sample_mean is not None for m in moments)
            terms["sample"] = spec.sample_statistics * (took_part if spec.sum_layers else 1) * found
        if self._centres is not None:
            found = self._centres.term(moments, wanted.labels, pooled=spec.centres == "pooled")
            terms["centre"] = spec.centre_statistics * found
        return terms

    def _picture_terms(self, x: Sequence[Tensor]) -> dict[str, Tensor]:
        spec = self._spec
        terms = {}
        flat = [item.flatten(1) for item in x]
        rows = torch.cat(flat, 1) if len(flat) > 1 else flat[0]
        # Samples that are more than their values have no spectrum that could be followed: eigenvalues repeat.
        if spec.decorrelation > 0 and rows.shape[1] >= rows.shape[0]:
            weight = spec.decorrelation / max(1, self._layers)
            spectrum = self._noise_spectrum(len(rows))
            terms["decorrelation"] = weight * spectral_gram_term(rows, spectrum)
        pictures = [
            as_nchw(item, own.layout)
            for item, own in zip(x, self._problem.inputs, strict=True)
            if own.layout is not Layout.OTHER
        ]
        priors = (
            ("image", spec.image_statistics, image_statistics),
            ("variation", spec.total_variation, total_variation),
            ("norm", spec.image_norm, image_norm),
        )
        for name, weight, prior in priors:
            if weight > 0 and pictures:
                terms[name] = weight * torch.stack([prior(item) for item in pictures]).sum()
        return terms

    def _label_terms(self, logits: Tensor, wanted: Wanted) -> dict[str, Tensor]:
        spec = self._spec
        terms = {}
        if spec.label > 0:
            found = hard_cross_entropy(logits, wanted.labels, power=spec.label_power)
            terms["label"] = spec.label * found
        if wanted.confidence is not None:
            found = soft_inception(logits, wanted.labels, wanted.confidence)
            terms["confidence"] = spec.soft_inception * found
        return terms

    def _moments_of_noise(self) -> list[Moments]:
        """Return the moments of each layer on noise, which takes no more memory than a batch of samples does."""
        size = min(self._spec.batch, SLACK_SAMPLES)
        noise = self._noise(-(-SLACK_SAMPLES // size) * size, "slack")
        with torch.no_grad():
            parts = [
                self._run(part)[1]
                for part in zip(*(torch.split(x, size) for x in noise), strict=True)
            ]
        return [pool_batches(layer) for layer in zip(*parts, strict=True)]

    def _noise_spectrum(self, count: int) -> Spectrum:
        """Return the Gram spectrum of noise, drawn once a run."""
        if self._spectrum is None:
            noise = self._noise(count, "spectrum")
            self._spectrum = gram_spectrum(torch.cat([item.flatten(1) for item in noise], 1))
        return self._spectrum

    def _noise(self, count: int, purpose: str) -> list[Tensor]:
        """Return N(0, 1) values of every input, drawn on the CPU."""
        generator = self._generator(purpose)
        shapes = [own.shape for own in self._problem.inputs]
        drawn = [torch.randn(count, *shape, generator=generator) for shape in shapes]
        return [x.to(self._problem.compute.device) for x in drawn]

    def _generator(self, *names: str) -> torch.Generator:
        return torch.Generator().manual_seed(derive_seed(self._seed, "synthesize", *names))


def classifier_input(teacher: Teacher) -> str:
    """Return the tensor that enters the last layer with weights before the first output: the samples' features.

    Raises:
        CalibError: if no such layer is found.
    """
    names = {node: tensor for tensor, node in teacher.fx_node_of.items()}
    (end,) = [node for node in teacher.module.graph.nodes if node.op == "output"]
    waiting = [end.all_input_nodes[0]]
    while waiting:
        node = waiting.pop()
        before = [item for item in node.all_input_nodes if item.op != "get_attr"]
        if node.meta.get("onnx_op") in {"Gemm", "MatMul", "Conv"} and before:
            return names[before[0].name]
        waiting.extend(before[:1])
    raise CalibError(
        "no layer was found that gives the class scores",
        why="the margin term keeps its distances between what enters that layer",
        mend="pass --set synthesis.margin=0",
    )
