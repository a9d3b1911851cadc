"""Compare two ONNX models on one sample set: what `edgeq compare A.onnx B.onnx` prints."""

from __future__ import annotations

from dataclasses import dataclass

from deploy.differences import Difference
from deploy.onnxrt import ModelSource, Session, find_logits, iterate_batches, predict_classes
from edgeq.core.errors import CalibError, InputError
from edgeq.core.progress import NoProgress, Progress
from edgeq.core.samples import SampleSet
from edgeq.core.serial import Spec


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputComparison(Spec):
    """One pair of outputs.

    Attributes:
        a, b: their names in the two models.
        top1_match_ratio: share of samples with the same best class, 0..1; None where they are no logits.
        max_abs: the largest absolute difference.
        sqnr_db: signal (A) to difference; 200 if equal.
        cosine: of the angle between the two, over all samples, -1..1.
    """

    a: str
    b: str
    top1_match_ratio: float | None
    max_abs: float
    sqnr_db: float
    cosine: float


@dataclass(frozen=True, slots=True, kw_only=True)
class CompareResult(Spec):
    """Two models on one sample set; A is the reference."""

    samples: int
    outputs: tuple[OutputComparison, ...]


def compare_models(
    a: ModelSource, b: ModelSource, samples: SampleSet, *, progress: Progress | None = None
) -> CompareResult:
    """Return how far the outputs of `b` are from those of `a`, in ONNX Runtime with graph optimisation off.

    Outputs are paired by name, or by position where the names differ and the counts do not.

    Raises:
        InputError: if inputs or outputs cannot be paired.
        CalibError: if the sample set is empty.
        NumericsError: if an output has NaN or infinity.
    """
    if not len(samples):
        raise CalibError(
            "the sample set is empty",
            why="models are compared on samples",
            mend="make one with `edgeq synth`",
        )
    progress = progress or NoProgress()
    first, second = Session(a), Session(b)
    pairings = [(model, _pair_inputs(model, samples)) for model in (first, second)]
    pairs = _pair_outputs(first.outputs, second.outputs)
    differences = [Difference(name) for name, _ in pairs]
    matched: list[int | None] = [None] * len(pairs)
    progress.start("compare", len(samples), "samples")
    sample_bytes = sum(x.nbytes for x in samples.feed(slice(1)).values())
    for pick in iterate_batches(len(samples), bytes_per_sample=sample_bytes):
        feed = samples.feed(pick)
        want, got = (
            model.run({name: feed[own] for name, own in names.items()}) for model, names in pairings
        )
        for index, (name, other) in enumerate(pairs):
            differences[index].add(want[name], got[other])
            if find_logits({name: want[name]}):
                same = predict_classes(want[name]) == predict_classes(got[other])
                matched[index] = (matched[index] or 0) + int(same.sum())
        progress.advance(pick.stop - pick.start)
    count = len(samples)
    outputs = tuple(
        OutputComparison(
            a=name,
            b=other,
            top1_match_ratio=None if hits is None else hits / count,
            max_abs=difference.max_abs,
            sqnr_db=difference.sqnr_db,
            cosine=difference.cosine,
        )
        for (name, other), difference, hits in zip(pairs, differences, matched, strict=True)
    )
    worst = min(item.sqnr_db for item in outputs)
    progress.finish(f"{count} samples, outputs at {worst:.1f} dB or better")
    return CompareResult(samples=count, outputs=outputs)


def _pair_inputs(model: Session, samples: SampleSet) -> dict[str, str]:
    """Return the sample set's name for each input of the model: its own, or that of the only one."""
    names, known = [item.name for item in model.inputs], list(samples.feed(slice(0)))
    if len(names) == len(known) == 1:
        return {names[0]: known[0]}
    if set(names) != set(known):
        raise InputError(
            f"the samples are of {', '.join(known)}, and the model reads {', '.join(names)}",
            why="every input of a model needs samples of its own",
            mend="compare models with the inputs of the set",
        )
    return {name: name for name in names}


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
