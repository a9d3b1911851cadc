"""What synthesis is asked for, and what it gives: a problem, and the sample set that its batches become."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from calib.units import Unit
from edgeq.core.errors import CalibError
from edgeq.core.recipes import SynthesisSpec
from edgeq.core.samples import Part, SampleSet
from edgeq.core.specs import BNTable, InputSpec
from edgeq.teacher.compute import PLAIN, Compute
from edgeq.teacher.teacher import Teacher


@dataclass(frozen=True, slots=True, kw_only=True)
class SynthesisProblem:
    """What the samples are made for.

    Attributes:
        teacher: of the graph whose BatchNormalizations are kept.
        table: its BN table, recorded or estimated (`calib.estimate`).
        inputs: of the model, in file order.
        classes: number of classes of the first output, or None where it gives no class scores.
        compute: where samples are optimised, and in which precision.
    """

    teacher: Teacher
    table: BNTable
    inputs: tuple[InputSpec, ...]
    classes: int | None
    compute: Compute = PLAIN


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What the samples of one batch are to be.

    Attributes:
        labels: [N], int64.
        confidence: of the soft inception loss, [N]; or None.
        centres: mean features of earlier samples of each class, [N, F]; or None.
    """

    labels: Tensor
    confidence: Tensor | None = None
    centres: Tensor | None = None


def no_statistics() -> CalibError:
    """Return the error for a model without BatchNormalization statistics and a recipe that needs them."""
    return CalibError(
        "no BatchNormalization with statistics in the file, and the recipe needs them",
        why="samples are made to match the mean and variance that BatchNormalization layers recorded in training; "
        "PyTorch's default exporter folds these layers into the convolutions and the figures are gone",
        mend="pass --teacher weights.pth, the state dict that the file was exported from; or export again with "
        "BatchNormalization kept, by `edgeq export`; or leave --recipe out: the default works from the file alone, "
        "less accurately",
    )


def collect_samples(
    units: Sequence[Unit],
    batches: Sequence[Sequence[Tensor]],
    labels: Tensor | None,
    spec: SynthesisSpec,
    seed: int,
    terms: dict[str, float],
    history: list[dict[str, float]],
    *,
    parts: Sequence[Part] = (),
) -> SampleSet:
    """Return the batches, each one tensor an input, as one set in the units of the file.

    `parts` are named where the samples are of several kinds.
    """
    joined = zip(units, zip(*batches, strict=True), strict=True)
    arrays = {unit.spec.name: unit.restore(torch.cat(parts)) for unit, parts in joined}
    first, *others = [unit.spec for unit in units]
    inputs: dict[str, object] = {"input": first.to_dict()}
    if others:
        inputs["other_inputs"] = [own.to_dict() for own in others]
    return SampleSet(
        input_name=first.name,
        samples=arrays.pop(first.name),
        labels=None if labels is None else labels.numpy(),
        provenance={
            "synthesis": spec.to_dict(),
            "seed": seed,
            "terms": terms,
            **inputs,
            "torch": torch.__version__,
        },
        others=arrays,
        history=history,
        parts=tuple(parts),
    )
