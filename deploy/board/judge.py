"""Are the engine's outputs those of the float network, within the tolerance that the host derived?"""

from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Sequence

import numpy as np

from edgeq.core.errors import InputError


class OutputVerdict(NamedTuple):
    """One output over all calls.

    Attributes:
        name: of the output.
        passed: whether every value is finite and within the tolerance; true of an output that is not judged.
        tolerance: the largest absolute difference that is allowed; None for an output that is not judged, as numbers of
            classes or indices, which are equal or not.
        max_difference: the largest one found among finite values.
        worst: where it is: call, index, what the engine says, what was expected.
        not_finite: how many values are NaN or infinite and were expected otherwise.
        top1_match: share of rows with the same largest value, 0..1; None where the output is no matrix of scores. Told,
            not judged.
        equal: share of equal values, 0..1.
    """

    name: str
    passed: bool
    tolerance: Optional[float]
    max_difference: float
    worst: Dict[str, Any]
    not_finite: int
    top1_match: Optional[float]
    equal: float


def judge_outputs(
    expected: Sequence[Mapping[str, Any]],
    measured: Sequence[Mapping[str, Any]],
    tolerances: Mapping[str, Optional[float]],
) -> List[OutputVerdict]:
    """Return one verdict for each output.

    Args:
        expected: by call, {output name: array}, the float network's.
        measured: the engine's, likewise.
        tolerances: by output name, absolute; None for one that is not judged.

    Raises:
        InputError: if calls, names or shapes differ.
    """
    if not expected or len(expected) != len(measured):
        raise _mismatch(f"{len(measured)} calls were answered, and {len(expected)} were expected")
    return [
        _judge(
            name,
            [_pick(call, name) for call in expected],
            [_pick(call, name) for call in measured],
            tolerance,
        )
        for name, tolerance in sorted(tolerances.items())
    ]


def _judge(
    name: str, expected: List[Any], measured: List[Any], tolerance: Optional[float]
) -> OutputVerdict:
    largest, worst, lost, equal, count = 0.0, {}, 0, 0, 0
    for call, (want, got) in enumerate(zip(expected, measured)):
        if want.shape != got.shape:
            raise _mismatch(f"'{name}' has the shape {got.shape}, and {want.shape} was expected")
        equal, count = equal + int(np.count_nonzero(got == want)), count + want.size
        want, got = want.astype(np.float64), got.astype(np.float64)
        # Equal infinities are right: some networks mask with them.
        lost += int(np.count_nonzero(~(np.isfinite(got) & np.isfinite(want)) & ~(got == want)))
        with np.errstate(invalid="ignore"):
            difference = np.where(got == want, 0.0, np.abs(got - want))
        difference = np.where(np.isfinite(difference), difference, 0.0)
        if difference.size and float(difference.max()) >= largest:
            index = np.unravel_index(int(difference.argmax()), difference.shape)
            largest = float(difference[index])
            place = [int(item) for item in index]
            worst = {"call": call, "index": place, "measured": float(got[index])}
            worst["expected"] = float(want[index])
    return OutputVerdict(
        name=name,
        passed=tolerance is None or (not lost and largest <= tolerance),
        tolerance=tolerance,
        max_difference=largest,
        worst={key: item if _is_plain(item) else str(item) for key, item in worst.items()},
        not_finite=lost,
        top1_match=_match_top1(expected, measured),
        equal=equal / count if count else 1.0,
    )


def _match_top1(expected: List[Any], measured: List[Any]) -> Optional[float]:
    first = expected[0]
    if first.ndim != 2 or first.shape[1] < 2 or not np.issubdtype(first.dtype, np.floating):
        return None
    same = [want.argmax(1) == got.argmax(1) for want, got in zip(expected, measured)]
    return float(np.concatenate(same).mean())


def _is_plain(value: Any) -> bool:
    """Return whether JSON has the value; it has no infinity."""
    return not isinstance(value, float) or bool(np.isfinite(value))


def _pick(call: Mapping[str, Any], name: str) -> Any:
    if name not in call:
        raise _mismatch(f"there is no output '{name}'; there are {', '.join(sorted(call))}")
    return np.asarray(call[name])


def _mismatch(what: str) -> InputError:
    return InputError(
        f"the engine is not that of this bundle: {what}",
        why="outputs are compared one by one",
        mend="copy the bundle again, and run ./build.sh --rebuild",
    )
