"""Does the Q/DQ model still agree with the teacher, and does the student compute what ONNX Runtime computes?

`verify_agreement` streams a sample set through both models. `read_codes` and `compare_codes` hold the student's integer
codes against those of the QuantizeLinear nodes that ship. All run with graph optimisation off.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray

from deploy.differences import Difference
from deploy.onnxrt import Array, Session, find_logits, iterate_batches, predict_classes
from edgeq.core.errors import BuildError, CalibError, EdgeqBug
from edgeq.core.plan import QuantPlan, Role
from edgeq.core.progress import NoProgress, Progress
from edgeq.core.samples import Part, SampleSet
from edgeq.core.serial import Spec
from edgeq.graph.codes import codes_name
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


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorCodes(Spec):
    """The codes of one tensor, student against ONNX Runtime.

    Attributes:
        tensor: ONNX name.
        count: how many codes were compared.
        differing: how many are not equal.
        largest: the largest difference, in codes.
    """

    tensor: str
    count: int
    differing: int
    largest: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CodeAgreement(Spec):
    """All quantized activations, student against ONNX Runtime."""

    tensors: tuple[TensorCodes, ...]

    @property
    def largest(self) -> int:
        """Return the largest difference in codes."""
        return max((item.largest for item in self.tensors), default=0)


def verify_agreement(
    teacher_model: onnx.ModelProto,
    qdq_model: onnx.ModelProto,
    samples: SampleSet,
    *,
    plan: QuantPlan,
    has_classes: bool = True,
    progress: Progress | None = None,
) -> AgreementResult:
    """Return how well `qdq_model` agrees with `teacher_model` on `samples`.

    Memory depends on the number of samples by one byte each. Without `has_classes` no output is taken for class scores.

    Raises:
        CalibError: if the sample set is empty.
        NumericsError: if a compared tensor has NaN or infinity.
    """
    if not len(samples):
        raise CalibError(
            "the sample set is empty",
            why="agreement is measured on samples",
            mend="make one with `edgeq synth`",
        )
    progress = progress or NoProgress()
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
            if name in view.outputs or name not in integers:
                difference.add(want[name], got[name])
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


def read_codes(
    qdq_model: onnx.ModelProto, plan: QuantPlan, inputs: Mapping[str, Array]
) -> dict[str, NDArray[np.int16]]:
    """Return the codes that the model's QuantizeLinear nodes give every quantized activation, by tensor name.

    Codes in a container with a zero point are given without it: those of the plan's grids. A tensor that a form for
    the target's kernels has passed over (`edgeq/graph/move_by_conv.py`) has none.

    Args:
        qdq_model: the model that ships.
        plan: names the quantized activations.
        inputs: by name, [N, ...].

    Raises:
        EdgeqBug: if an activation of the plan has no QuantizeLinear in the model.
    """
    quantizers = quantizer_outputs(qdq_model, plan)
    view = GraphView(qdq_model)
    session = Session(qdq_model, outputs=tuple(quantizers.values()))
    results = session.run(inputs)
    return {
        name: results[output].astype(np.int16) - _zero_point(view, output)
        for name, output in quantizers.items()
    }


def quantizer_outputs(qdq_model: onnx.ModelProto, plan: QuantPlan) -> dict[str, str]:
    """Return the INT8 tensor of every quantized activation that the model has, by the activation's name.

    Raises:
        EdgeqBug: if an activation of the plan has no QuantizeLinear in the model.
    """
    view = GraphView(qdq_model)
    planned = [item.tensor for item in plan.quantized(Role.ACTIVATION)]
    known = view.names()
    return {
        name: _quantizer_output(view, name, set(planned))
        for name in planned
        if name in known or codes_name(name) in known
    }


def compare_codes(
    expected: Mapping[str, NDArray[np.int16]], measured: Mapping[str, NDArray[np.int16]]
) -> CodeAgreement:
    """Return how far the student's codes are from those of the model.

    Args:
        expected: by tensor name, the student's codes. Where the student passed `measured` on from each tensor to the
            next, a difference is that tensor's own; else it may come from a tie of rounding far before it.
        measured: see `read_codes`.

    Raises:
        EdgeqBug: if a tensor of `expected` is not among `measured`, or its shape differs.
    """
    return CodeAgreement(
        tensors=tuple(_compare_tensor(name, codes, measured) for name, codes in expected.items())
    )


def require_within_one_code(agreement: CodeAgreement) -> None:
    """Check that no code differs by more than one.

    Raises:
        BuildError: names the tensors that are farther off.
    """
    off = [item for item in agreement.tensors if item.largest > 1]
    if not off:
        return
    worst = ", ".join(
        f"'{item.tensor}' (by {item.largest}, {item.differing} of {item.count} differ)"
        for item in sorted(off, key=lambda item: -item.largest)[:5]
    )
    raise BuildError(
        f"student and ONNX Runtime differ by more than one code in {len(off)} tensors: {worst}",
        why="what was trained must be what ships; ties of rounding explain one code, not more",
        mend="report this with the manifest of the build; meanwhile try another --seed",
    )


def _common_layers(teacher: GraphView, qdq: GraphView) -> list[str]:
    """Return the tensors to compare layer by layer, in the order of the Q/DQ graph."""
    return [
        node.output[0]
        for node in qdq.nodes
        if node.op_type in _LAYERS and teacher.producer(node.output[0]) is not None
    ]


def _quantizer_output(view: GraphView, tensor: str, planned: set[str]) -> str:
    """Return the INT8 output of the QuantizeLinear that reads `tensor`, directly or through the clip of its grid."""
    clips = [
        node.output[0]
        for node, index in view.consumers(tensor)
        # A Clip of the user's own (ReLU6) makes a tensor with its own decision; the grid's clip does not.
        if node.op_type == "Clip" and index == 0 and node.output[0] not in planned
    ]
    for source in (tensor, *clips):
        for node, index in view.consumers(source):
            if node.op_type == "QuantizeLinear" and index == 0:
                return str(node.output[0])
    if view.producer(codes_name(tensor)) is not None:
        return codes_name(tensor)  # made from codes, without a QuantizeLinear
    msg = f"tensor '{tensor}' is quantized in the plan, but has no QuantizeLinear in the model"
    raise EdgeqBug(msg)


def _zero_point(view: GraphView, codes: str) -> NDArray[np.int16]:
    """Return the zero point of the nodes that make or read `codes`."""
    nodes = [view.producer(codes), *(node for node, _ in view.consumers(codes))]
    for node in nodes:
        if node is not None and node.op_type in {"QuantizeLinear", "DequantizeLinear"}:
            return np.asarray(view.constant(node.input[2]), np.int16)
    msg = f"no node tells the zero point of '{codes}'"
    raise EdgeqBug(msg)


def _compare_tensor(
    tensor: str, expected: NDArray[np.int16], measured: Mapping[str, NDArray[np.int16]]
) -> TensorCodes:
    if tensor not in measured:
        msg = f"tensor '{tensor}' has codes, but the model has none"
        raise EdgeqBug(msg)
    found = measured[tensor]
    if expected.shape != found.shape:
        msg = f"codes of '{tensor}' have the shape {expected.shape}, in the model {found.shape}"
        raise EdgeqBug(msg)
    steps = np.abs(expected.astype(np.int16) - found.astype(np.int16))
    return TensorCodes(
        tensor=tensor,
        count=steps.size,
        differing=int(np.count_nonzero(steps)),
        largest=int(steps.max(initial=0)),
    )


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
