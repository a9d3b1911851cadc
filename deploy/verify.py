"""Does the Q/DQ model still agree with the teacher? `verify_agreement` streams a sample set through both models.

Graph optimisation is off. Whether the student computes the same codes is for `deploy.code_agreement`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray

from deploy.differences import Difference
from deploy.onnxrt import Array, Session, find_logits, iterate_batches, predict_classes
from edgeq.core.errors import CalibError
from edgeq.core.numerics import along_axis
from edgeq.core.plan import QuantPlan, Role
from edgeq.core.progress import NoProgress, Progress
from edgeq.core.samples import Part, SampleSet
from edgeq.core.serial import Spec
from edgeq.graph.view import GraphView

_LAYERS = {"Conv", "ConvTranspose", "Gemm", "MatMul", "Add"}


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorAgreement(Spec):
    """How close one tensor of the Q/DQ model is to the teacher's tensor of that name.

    Attributes:
        tensor: ONNX name.
        op_type: of the node that makes it in the Q/DQ model.
        grid: the grid it is quantized to afterwards, in words; "" where it stays float.
        sqnr_db: signal to quantization noise over all samples, before the tensor's own quantization; 200 if equal.
    """

    tensor: str
    op_type: str
    grid: str
    sqnr_db: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PartAgreement(Spec):
    """How well a Q/DQ model agrees with its teacher on the samples of one kind (`edgeq.core.samples.Part`).

    Attributes:
        kind: of the samples, in words.
        samples: how many there are.
        top1_match_ratio: share of them with the same best class, 0..1.
    """

    kind: str
    samples: int
    top1_match_ratio: float


@dataclass(frozen=True, slots=True, kw_only=True)
class AgreementResult(Spec):
    """How well a Q/DQ model agrees with its teacher.

    Attributes:
        target, bits: of the plan.
        samples: how many were compared.
        top1_match_ratio: share of samples with the same best class, 0..1; None if no output looks like logits.
        outputs: one entry a graph output, in order.
        layers: outputs of weighted operators and additions that both models have, in graph order.
        parts: `top1_match_ratio` by kind of samples, where the set tells kinds apart; else empty. Of dead leaves the
            teacher itself is unsure, and they outnumber the samples that were made for a class.
    """

    target: str
    bits: str
    samples: int
    top1_match_ratio: float | None
    outputs: tuple[TensorAgreement, ...]
    layers: tuple[TensorAgreement, ...]
    parts: tuple[PartAgreement, ...] = ()


def verify_agreement(
    teacher_model: onnx.ModelProto,
    qdq_model: onnx.ModelProto,
    samples: SampleSet,
    *,
    plan: QuantPlan,
    has_classes: bool = True,
    channel_factors: Mapping[str, NDArray[np.float32]] | None = None,
    progress: Progress | None = None,
) -> AgreementResult:
    """Return how well `qdq_model` agrees with `teacher_model` on `samples`.

    Memory depends on the number of samples by one byte each. Without `has_classes` no output is taken for class scores.
    Tensors whose channels equalization has multiplied by `channel_factors` are divided by them first.

    Raises:
        CalibError: if the sample set is empty.
        NumericsError: if an output has NaN or infinity.
    """
    if not len(samples):
        raise CalibError(
            "the sample set is empty",
            why="agreement is measured on samples",
            mend="make one with `edgeq synth`",
        )
    progress = progress or NoProgress()
    factors = channel_factors or {}
    view = GraphView(qdq_model)
    names = [*view.outputs, *_common_layers(GraphView(teacher_model), view)]
    differences = {name: Difference(name) for name in dict.fromkeys(names)}
    teacher = Session(teacher_model, outputs=tuple(differences))
    student = Session(qdq_model, outputs=tuple(differences))
    first = teacher.run(samples.feed(slice(1)))
    integers = {name for name, y in first.items() if not np.issubdtype(y.dtype, np.floating)}
    logits = find_logits({name: first[name] for name in view.outputs}) if has_classes else None
    progress.start("verify", len(samples), "samples")
    matches: list[NDArray[np.bool_]] = []
    for pick in iterate_batches(len(samples), bytes_per_sample=2 * _size_bytes(first)):
        feed = samples.feed(pick)
        want, got = (model.run(feed) for model in (teacher, student))
        for name, difference in differences.items():
            if name in view.outputs:
                difference.add(want[name], _restored(got[name], factors.get(name)))
            elif name not in integers:  # the scores behind an attention mask are infinite in both
                difference.add_any(want[name], _restored(got[name], factors.get(name)))
        figures = {}
        if logits is not None:
            matches.append(predict_classes(want[logits]) == predict_classes(got[logits]))
            figures["top1_match_pct"] = 100 * float(matches[-1].mean())
        progress.advance(pick.stop - pick.start, **figures)
    is_same = np.concatenate(matches) if matches else None
    parts = () if is_same is None else _by_part(is_same, samples.parts)
    ratio = None if is_same is None else float(is_same.mean())
    progress.finish(_summary(ratio, parts, [differences[name] for name in view.outputs]))
    grids = {item.tensor: str(item.grid) for item in plan.quantized(Role.ACTIVATION)}
    return AgreementResult(
        target=plan.target,
        bits=plan.bits,
        samples=len(samples),
        top1_match_ratio=ratio,
        outputs=tuple(_entry(view, differences[name], grids) for name in view.outputs),
        layers=tuple(
            _entry(view, differences[name], grids)
            for name in names[len(view.outputs) :]
            if name not in integers
        ),
        parts=parts,
    )


def _restored(value: Array, factor: NDArray[np.float32] | None) -> Array:
    """Return a tensor with its channels at their old sizes."""
    return value if factor is None else value / along_axis(factor, value.ndim, 1)


def _common_layers(teacher: GraphView, qdq: GraphView) -> list[str]:
    """Return the tensors to compare layer by layer, in the order of the Q/DQ graph."""
    return [
        node.output[0]
        for node in qdq.nodes
        if node.op_type in _LAYERS and teacher.producer(node.output[0]) is not None
    ]


def _entry(view: GraphView, difference: Difference, grids: Mapping[str, str]) -> TensorAgreement:
    node = view.producer(difference.name)
    return TensorAgreement(
        tensor=difference.name,
        op_type=node.op_type if node is not None else "",
        grid=grids.get(difference.name, ""),
        sqnr_db=difference.sqnr_db,
    )


def _size_bytes(tensors: Mapping[str, Array]) -> int:
    return sum(y.nbytes for y in tensors.values())


def _by_part(is_same: NDArray[np.bool_], parts: Sequence[Part]) -> tuple[PartAgreement, ...]:
    """Return the share of true values of each part of a set; `is_same` [N] is in its order."""
    ends = np.cumsum([part.samples for part in parts])
    return tuple(
        PartAgreement(
            kind=part.kind,
            samples=part.samples,
            top1_match_ratio=float(is_same[end - part.samples : end].mean()),
        )
        for part, end in zip(parts, ends, strict=True)
    )


def _summary(
    ratio: float | None, parts: Sequence[PartAgreement], outputs: Sequence[Difference]
) -> str:
    worst = min((item.sqnr_db for item in outputs), default=0.0)
    ratios = [(f" of {part.kind}", part.top1_match_ratio) for part in parts]
    if ratio is not None and not ratios:
        ratios = [("", ratio)]
    match = "".join(f"top-1 match {100 * share:.2f} %{kind}, " for kind, share in ratios)
    return f"{match}outputs at {worst:.1f} dB"
