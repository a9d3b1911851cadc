"""Where the knowledge of the training data comes from, and what a build does where there is none.

Nodes in the file come first, then a state dict given beside it (`find_statistics`); else the recipe's own substitute
works from the file alone (`settle_recipe`).
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx

from edgeq.core.recipes import Recipe, load_recipe
from edgeq.core.specs import BNTable

_LOG = logging.getLogger(__name__)

# By the source of the statistics.
_TRUST = {
    "node": "high, these are the figures that training recorded",
    "teacher": "high, training recorded these figures, and folding them gives the file's own weights",
    "estimate": "lower, nothing of the training data is known; the samples are worked out from the file alone",
    "none": "lower, nothing of the training data is known",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Statistics:
    """A BN table and its origin.

    Attributes:
        table: empty where there are no statistics.
        source: "node", "teacher", "estimate" (from the file alone) or "none" (the recipe asks for no more).
        text: the origin in words, with the number of layers.
        weights_digest: SHA-256 of the state dict that the table was recovered from, else None.
        findings: what the user should know, one sentence each.
    """

    table: BNTable
    source: str
    text: str
    weights_digest: str | None = None
    findings: tuple[str, ...] = ()

    @property
    def trust(self) -> str:
        """Return how far the sample set can be trusted for it, in words."""
        return _TRUST[self.source]


def find_statistics(model: onnx.ModelProto, teacher_weights: Path | None) -> Statistics:
    """Return the BN statistics of `model` from the most trustworthy place that has any.

    Args:
        model: with inferred shapes.
        teacher_weights: a state dict of the same network before folding, or None; read only if it is needed.

    Raises:
        InputError: if the state dict cannot be read, or no layer of `model` is a fold of it.
        ModelError: if a BatchNormalization of the file is in training mode or damaged.
    """
    from edgeq.graph.batchnorm import read_bn_table

    table = read_bn_table(model)
    if table.entries:
        unused = f"--teacher {teacher_weights} was not read: the file's BatchNormalization nodes have the statistics"
        return Statistics(
            table=table,
            source="node",
            text=f"from the file's {len(table.entries)} BatchNormalization nodes",
            findings=(unused,) if teacher_weights is not None else (),
        )
    if teacher_weights is None:
        return Statistics(table=table, source="none", text="none in the file")
    return _recover(model, teacher_weights)


def settle_recipe(
    recipe: Recipe, statistics: Statistics, settings: Mapping[str, str]
) -> tuple[Recipe, Statistics]:
    """Return the recipe that works with what is known, and the statistics with that decision told.

    Args:
        recipe: what was asked for.
        statistics: what was found.
        settings: figures that the user replaced; they hold for the substitute too.

    Raises:
        CalibError: if the recipe needs statistics, there are none, and it names no substitute.
    """
    from calib.synthesize import no_statistics

    if statistics.table.entries:
        return recipe, statistics
    if not recipe.synthesis.needs_statistics:
        told = dataclasses.replace(statistics, text=f"none; the recipe '{recipe.name}' needs none")
        return recipe, told
    if not recipe.without_statistics:
        raise no_statistics()
    other = load_recipe(recipe.without_statistics, effort=recipe.effort, settings=dict(settings))
    finding = (
        f"the file has no statistics of its training data (BatchNorm folded away, or none used): the recipe "
        f"'{other.name}' takes the place of '{recipe.name}' and works from the file alone, which loses more accuracy "
        "below 8 bits. If there was BatchNorm, pass --teacher weights.pth, or export again with `edgeq export`"
    )
    _LOG.warning("%s", finding)
    text = f"none in the file; the recipe '{other.name}' works from the file alone"
    told = dataclasses.replace(
        statistics, source="estimate", text=text, findings=(*statistics.findings, finding)
    )
    return other, told


def _recover(model: onnx.ModelProto, path: Path) -> Statistics:
    from edgeq.core.files import digest_file
    from edgeq.graph.findings import listed
    from edgeq.teacher.checkpoint import load_state_dict
    from edgeq.teacher.recovery import recover_bn_table

    found = recover_bn_table(model, load_state_dict(path), path=path)
    missed = [f"'{item.node}': {item.reason}" for item in found.failed]
    total = len(found.matched) + len(missed)
    partial = f"{len(missed)} of {total} layers have no statistics: {listed(missed)}"
    return Statistics(
        table=found.table,
        source="teacher",
        text=f"recovered from {path.name} by value, {len(found.matched)} of {total} layers",
        weights_digest=digest_file(path),
        findings=(partial,) if missed else (),
    )
