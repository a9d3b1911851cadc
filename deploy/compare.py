"""Compare two models on the same inputs, and find the first tensor in which they part (`edgeq compare`).

Entry: `compare_models`. The graph outputs are compared on all samples; every tensor that both graphs have
(`matching`), on the first `TENSOR_SAMPLES`, in pieces that fit into memory. Both models run under polygraphy's
Comparator (`lockstep`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx

from deploy.differences import Difference
from deploy.engine.measure import is_engine
from deploy.lockstep import (
    EngineSide,
    Feed,
    OnnxSide,
    Side,
    common_batch,
    run_lockstep,
)
from deploy.matching import TensorPair, match_tensors
from deploy.onnxrt import MAX_BATCH, Array, ModelSource, find_logits, predict_classes, read_source
from edgeq.core.errors import CalibError, InputError
from edgeq.core.progress import NoProgress, Progress
from edgeq.core.samples import SampleSet
from edgeq.core.serial import Spec
from edgeq.graph.rescaled import unlike_tensors

# Errors of a tenth of the signal: INT8 stays well above (30 to 45 dB), a wrong scale or operator falls below.
DEFAULT_LIMIT_DB = 20.0
# Enough to tell a broken tensor from a sound one; the outputs are compared on all samples.
TENSOR_SAMPLES = 32
# What the compared tensors of both models may take together; a laptop has that to spare.
PIECE_BYTES = 256 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputComparison(Spec):
    """One pair of outputs.

    Attributes:
        a, b: their names in the two models.
        top1_match_ratio: share of samples with the same best class, 0..1; None where they are no logits.
        max_abs: the largest absolute difference.
        sqnr_db: signal (A) to difference; 200 if equal, -200 if NaN or infinity stand where the other has none.
        cosine: of the angle between the two, over all samples, -1..1.
        non_finite: values of A that are NaN or infinite; only equal ones agree with them.
    """

    a: str
    b: str
    top1_match_ratio: float | None
    max_abs: float
    sqnr_db: float
    cosine: float
    non_finite: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorComparison(Spec):
    """One tensor that both graphs have.

    Attributes:
        a, b: its names; B's is the dequantized one where B quantizes it.
        node, op_type: of the node of B that makes it, before its quantizer.
        sqnr_db, max_abs: as in OutputComparison.
        unrounded_db: the SQNR before the tensor's own rounding; None where B does not quantize it. Much better than
            `sqnr_db`: the tensor's own scale is the cause.
        inputs: SQNR of the tensors that this node reads in B, of those that were compared; where they are much better
            than the tensor, the node itself is the cause.
    """

    a: str
    b: str
    node: str
    op_type: str
    sqnr_db: float
    max_abs: float
    unrounded_db: float | None
    inputs: dict[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class CompareResult(Spec):
    """Two models on the same inputs; A is the reference.

    Attributes:
        samples: how many the outputs were compared on.
        outputs: every pair of outputs.
        limit_db: SQNR below which a tensor counts as diverging.
        tensor_samples: how many the tensors were compared on; 0 where one of the two is an engine, which shows none.
        tensors: every tensor that both have, in the order in which B computes them.
        first: the first of them below the limit, or None.
        unlike: tensors of the same name that have two shapes, and so were left out.
        rescaled: tensors of the same name whose channels equalization has multiplied, and so were left out.
    """

    samples: int
    outputs: tuple[OutputComparison, ...]
    limit_db: float = DEFAULT_LIMIT_DB
    tensor_samples: int = 0
    tensors: tuple[TensorComparison, ...] = ()
    first: TensorComparison | None = None
    unlike: tuple[str, ...] = ()
    rescaled: tuple[str, ...] = ()

    @property
    def worst_db(self) -> float:
        """Return the lowest SQNR of all outputs and tensors."""
        figures = [item.sqnr_db for item in self.outputs]
        return min(figures + [item.sqnr_db for item in self.tensors])


def compare_models(
    a: ModelSource | str,
    b: ModelSource | str,
    samples: SampleSet,
    *,
    limit_db: float = DEFAULT_LIMIT_DB,
    progress: Progress | None = None,
) -> CompareResult:
    """Return how far the outputs and tensors of `b` are from those of `a`.

    ONNX files run in ONNX Runtime with graph optimisation off, and engines (files that begin with "ftrt") in TensorRT.
    A model is a path, the bytes of an ONNX file, or an `onnx.ModelProto`.

    Raises:
        InputError: if inputs or outputs cannot be paired, outputs have two shapes, or the limit is no finite number.
        CalibError: if the sample set is empty.
        ModelError: if ONNX Runtime cannot load or run a model, or an output is no tensor of numbers.
        DeviceError: if there is no GPU for an engine, or TensorRT fails.
        MissingDependencyError: if TensorRT is not installed and one model is an engine.
    """
    if not math.isfinite(limit_db):
        raise InputError(
            f"the limit is {limit_db} dB",
            why="no SQNR is below NaN, so it would let every model pass; an SQNR is between -200 and 200 dB",
            mend="pass a number, for instance 20",
        )
    if not len(samples):
        raise CalibError(
            "the sample set is empty",
            why="models are compared on samples",
            mend="make one with `edgeq synth`",
        )
    progress = progress or NoProgress()
    a, b = (Path(model) if isinstance(model, str) else model for model in (a, b))
    sides = (_open(a), _open(b))
    names = (_pair_inputs(sides[0], samples), _pair_inputs(sides[1], samples))
    outputs = _compare_outputs(sides, Feed(samples=samples, names=names), progress)
    few = _first(samples, TENSOR_SAMPLES)
    is_visible = all(isinstance(side, OnnxSide) for side in sides)
    renamed = {
        theirs: ours
        for theirs, sample in names[1].items()
        for ours, own in names[0].items()
        if own == sample
    }
    pairs, rescaled = (
        _pair_tensors(read_source(a), read_source(b), renamed) if is_visible else ((), ())
    )
    tensors, unlike = _compare_tensors(sides, Feed(samples=few, names=names), pairs, progress)
    return CompareResult(
        samples=len(samples),
        outputs=outputs,
        limit_db=limit_db,
        tensor_samples=len(few) if is_visible else 0,
        tensors=tensors,
        first=next((item for item in tensors if item.sqnr_db < limit_db), None),
        unlike=unlike,
        rescaled=rescaled,
    )


def _pair_tensors(
    a: onnx.ModelProto, b: onnx.ModelProto, renamed: Mapping[str, str]
) -> tuple[Sequence[TensorPair], tuple[str, ...]]:
    """Return the tensors to compare, and the names of B's that equalization has made others."""
    pairs, rescaled = match_tensors(a, b, renamed), unlike_tensors(a, b)
    others = [pair for pair in pairs if {pair.a, pair.b, pair.unrounded} & rescaled]
    return [pair for pair in pairs if pair not in others], tuple(pair.b for pair in others)


def _open(model: ModelSource) -> Side:
    if isinstance(model, Path) and is_engine(model):
        return EngineSide(model)
    return OnnxSide(model)


def _first(samples: SampleSet, count: int) -> SampleSet:
    feed = samples.feed(slice(count))
    return SampleSet(
        input_name=samples.input_name,
        samples=feed.pop(samples.input_name),
        labels=None,
        provenance=samples.provenance,
        others=feed,
    )


def _compare_outputs(
    sides: tuple[Side, Side], feed: Feed, progress: Progress
) -> tuple[OutputComparison, ...]:
    """Return the comparison of the graph outputs, on all samples of `feed`."""
    pairs = _pair_outputs(sides[0].outputs, sides[1].outputs)
    differences = [Difference(name) for name, _ in pairs]
    hits: list[int | None] = [None] * len(pairs)
    fixed = common_batch(sides, feed)
    batch = fixed or _batch(sum(x.nbytes for x in feed.samples.feed(slice(1)).values()))

    def visit(want: dict[str, Array], got: dict[str, Array], count: int) -> None:
        for index, (name, other) in enumerate(pairs):
            ours, theirs = (_trim(y, count, fixed) for y in (want[name], got[other]))
            differences[index].add_any(ours, theirs)
            if find_logits({name: ours}):
                same = predict_classes(ours) == predict_classes(theirs)
                hits[index] = (hits[index] or 0) + int(same.sum())
        progress.advance(count)

    total = len(feed.samples)
    progress.start("compare", total, "samples")
    run_lockstep(sides, feed, visit, batch=batch)
    progress.finish(
        f"{total} samples, outputs at {min(x.sqnr_db for x in differences):.1f} dB or better"
    )
    return tuple(
        OutputComparison(
            a=name,
            b=other,
            top1_match_ratio=None if found is None else found / total,
            max_abs=difference.max_abs,
            sqnr_db=difference.sqnr_db,
            cosine=difference.cosine,
            non_finite=difference.non_finite,
        )
        for (name, other), difference, found in zip(pairs, differences, hits, strict=True)
    )


def _compare_tensors(
    sides: tuple[Side, Side], feed: Feed, pairs: Sequence[TensorPair], progress: Progress
) -> tuple[tuple[TensorComparison, ...], tuple[str, ...]]:
    """Return the comparison of `pairs`, and the names of those whose shapes differ."""
    differences: dict[str, Difference] = {}
    unlike: list[str] = []
    if not pairs:
        return (), ()
    progress.start("tensors", len(pairs), "tensors")
    fixed = common_batch(sides, feed)
    for piece in _pieces(pairs):
        batch = fixed or _batch(sum(pair.sample_bytes for pair in piece))

        def visit(
            want: dict[str, Array],
            got: dict[str, Array],
            count: int,
            piece: Sequence[TensorPair] = piece,
        ) -> None:
            for pair in piece:
                if want[pair.a].shape != got[pair.b].shape:
                    unlike.append(pair.b)
                    continue
                difference = differences.setdefault(pair.b, Difference(pair.b))
                difference.add_any(want[pair.a], got[pair.b])

        extra = ([pair.a for pair in piece], [pair.b for pair in piece])
        run_lockstep(sides, feed, visit, extra=extra, batch=batch)
        progress.advance(len(piece))
    compared = [
        pair for pair in pairs if pair.is_read and pair.b in differences and pair.b not in unlike
    ]
    progress.finish(f"{len(compared)} tensors that both have")
    return tuple(_entry(pair, differences) for pair in compared), tuple(dict.fromkeys(unlike))


def _entry(pair: TensorPair, differences: Mapping[str, Difference]) -> TensorComparison:
    return TensorComparison(
        a=pair.a,
        b=pair.b,
        node=pair.node,
        op_type=pair.op_type,
        sqnr_db=differences[pair.b].sqnr_db,
        max_abs=differences[pair.b].max_abs,
        unrounded_db=differences[pair.unrounded].sqnr_db if pair.unrounded in differences else None,
        inputs={name: differences[name].sqnr_db for name in pair.inputs if name in differences},
    )


def _pieces(pairs: Sequence[TensorPair]) -> Iterator[list[TensorPair]]:
    """Yield runs of pairs whose tensors fit into PIECE_BYTES at one sample; a tensor that does not is alone."""
    piece: list[TensorPair] = []
    for pair in pairs:
        if piece and sum(item.sample_bytes for item in piece) + pair.sample_bytes > PIECE_BYTES:
            yield piece
            piece = []
        piece.append(pair)
    yield piece


def _batch(sample_bytes: int) -> int:
    return max(1, min(MAX_BATCH, PIECE_BYTES // max(1, sample_bytes)))


def _trim(y: Array, count: int, fixed: int | None) -> Array:
    """Return `y` without what belongs to the samples that pad a fixed batch."""
    return y if fixed is None or not y.ndim else y[: len(y) * count // fixed]


def _pair_inputs(side: Side, samples: SampleSet) -> dict[str, str]:
    """Return the sample set's name for each input of the model: its own, or that of the only one."""
    names, known = [item.name for item in side.inputs], list(samples.feed(slice(0)))
    is_single = len(names) == len(known) == 1
    if not is_single and set(names) != set(known):
        raise InputError(
            f"the samples are of {', '.join(known)}, and the model reads {', '.join(names)}",
            why="every input of a model needs samples of its own",
            mend="compare models with the inputs of the set",
        )
    pairs = {names[0]: known[0]} if is_single else {name: name for name in names}
    _require_shapes(side, samples, pairs)
    return pairs


def _require_shapes(side: Side, samples: SampleSet, pairs: Mapping[str, str]) -> None:
    """Raise unless every sample is one that its input takes, with a batch axis before it or without."""
    values = samples.feed(slice(0))
    for item in side.inputs:
        shape = values[pairs[item.name]].shape[1:]
        wanted = item.shape if len(item.shape) == len(shape) else item.shape[1:]
        is_fit = len(wanted) == len(shape) and all(
            size in (None, own) for size, own in zip(wanted, shape, strict=True)
        )
        if not is_fit:
            told = "x".join("?" if size is None else str(size) for size in item.shape)
            raise InputError(
                f"a sample has the shape {'x'.join(map(str, shape))}, and the input '{item.name}' of a model {told}",
                why="both models run on the same samples, which must fit each",
                mend="make a set with `edgeq synth` from the model, or compare models of one input shape",
            )


def _pair_outputs(a: tuple[str, ...], b: tuple[str, ...]) -> list[tuple[str, str]]:
    if set(a) == set(b):
        return [(name, name) for name in a]
    if len(a) == len(b):
        return list(zip(a, b, strict=True))
    raise InputError(
        f"the outputs cannot be paired: {', '.join(a)} against {', '.join(b)}",
        why="they are paired by name, or by position where the counts are equal",
        mend="compare models with the same outputs",
    )
