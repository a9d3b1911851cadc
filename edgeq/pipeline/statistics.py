"""Where the knowledge of the training data comes from, and what a build does where there is none.

Nodes in the file come first, then, for the layers that have none, a state dict given beside it (`find_statistics`);
where neither has any, the recipe's own substitute works from the file alone (`settle_recipe`).
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx

from edgeq.core.recipes import Recipe, load_recipe, name_recipe
from edgeq.core.specs import BNTable

_LOG = logging.getLogger(__name__)

# A file with fewer nodes than this share of its convolutions may have lost some: networks that were trained with few
# have about 60 % (squeeze and excitation has two convolutions without one in each block).
_FEW_NODES = 0.5

# By the source of the statistics.
_TRUST = {
    "node": "high, these are the figures that training recorded",
    "teacher": "high, training recorded these figures, and folding them gives the file's own weights",
    "node and teacher": "high, training recorded these figures, and folding them gives the weights of what was folded",
    "estimate": "lower, nothing of the training data is known; the samples are worked out from the file alone",
    "none": "lower, nothing of the training data is known",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Statistics:
    """A BN table and its origin.

    Attributes:
        table: empty where there are no statistics.
        source: "node", "teacher", "node and teacher", "estimate" (from the file alone) or "none" (the baseline of
            noise).
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
    """Return the BN statistics of `model`: of its nodes, and of the state dict for the layers that were folded.

    Args:
        model: with inferred shapes.
        teacher_weights: a state dict of the same network before folding, or None.

    Raises:
        InputError: if the state dict cannot be read, or has nothing to do with the layers of `model`.
        ModelError: if a BatchNormalization of the file is in training mode or damaged.
    """
    from edgeq.graph.batchnorm import read_bn_table

    table = read_bn_table(model)
    if teacher_weights is not None:
        return _recover(model, table, teacher_weights)
    if not table.entries:
        return Statistics(table=table, source="none", text="none in the file")
    text, findings = _tell_nodes(model, table)
    return Statistics(table=table, source="node", text=text, findings=findings)


def _tell_nodes(model: onnx.ModelProto, table: BNTable) -> tuple[str, tuple[str, ...]]:
    """Return where the table comes from in words, and a finding if nodes seem to be missing."""
    nodes = len(table.entries)
    convolutions = sum(node.op_type in {"Conv", "ConvTranspose"} for node in model.graph.node)
    text = f"from the file's {nodes} BatchNormalization nodes"
    if nodes >= _FEW_NODES * convolutions:
        return text, ()
    share = 100 * nodes / convolutions
    finding = (
        f"{nodes} BatchNormalization nodes for {convolutions} convolutions ({share:.0f} %): if the exporter folded "
        "others, the sample set knows little of those layers; pass --teacher weights.pth, which is read for them"
    )
    return f"{text}, for {share:.0f} % of its {convolutions} convolutions", (finding,)


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
    from calib.problem import no_statistics

    if not recipe.synthesis.needs_statistics:
        return recipe, _tell_unused(recipe, statistics)
    if statistics.table.entries:
        return recipe, statistics
    if not recipe.without_statistics:
        raise no_statistics()
    name = name_recipe(recipe.without_statistics, recipe.numbers)
    other = load_recipe(name, effort=recipe.effort, settings=dict(settings))
    finding = (
        f"the file has no statistics of its training data (BatchNorm folded away, or none used): the recipe "
        f"'{other.name}' takes the place of '{recipe.name}' and works from the file alone, which loses more accuracy "
        "below 8 bits. If there was BatchNorm, pass --teacher weights.pth, or export again with `edgeq export`"
    )
    _LOG.warning("%s", finding)
    told = _tell_unused(other, statistics)
    return other, dataclasses.replace(told, findings=(*told.findings, finding))


def _tell_unused(recipe: Recipe, statistics: Statistics) -> Statistics:
    """Return the statistics for a recipe that needs none."""
    found = "recorded ones are not used" if statistics.table.entries else "none in the file"
    is_baseline = recipe.synthesis.source == "noise"
    how = "is the plain baseline" if is_baseline else "works from the file alone"
    return dataclasses.replace(
        statistics,
        source="none" if is_baseline else "estimate",
        text=f"{found}; the recipe '{recipe.name}' {how}",
    )


def _recover(model: onnx.ModelProto, kept: BNTable, path: Path) -> Statistics:
    """Return the entries `kept` of nodes, joined with those that the state dict gives folded layers."""
    from edgeq.core.files import digest_file
    from edgeq.graph.findings import listed
    from edgeq.teacher.checkpoint import load_state_dict
    from edgeq.teacher.recovery import recover_bn_table

    found = recover_bn_table(model, load_state_dict(path), path=path, needs_fold=not kept.entries)
    missed = [f"'{item.node}': {item.reason}" for item in found.failed]
    matched = len(found.matched)
    total = matched + len(missed)
    partial = f"{len(missed)} of {total} layers have no statistics: {listed(missed)}"
    findings = (partial,) if missed else ()
    recovered = f"recovered from {path.name} by value, {matched} of {total} layers"
    text, _ = _tell_nodes(model, kept)
    if not matched:
        unused = f"--teacher {path.name} gives no more: no layer of the file is a fold of it"
        return Statistics(table=kept, source="node", text=text, findings=(unused, *findings))
    return Statistics(
        table=_join(model, kept, found.table),
        source="node and teacher" if kept.entries else "teacher",
        text=f"{text}, and {recovered}" if kept.entries else recovered,
        weights_digest=digest_file(path),
        findings=findings,
    )


def _join(model: onnx.ModelProto, kept: BNTable, recovered: BNTable) -> BNTable:
    """Return both tables as one in running order; of two entries for one tensor the node's stays."""
    entries = {entry.tensor: entry for entry in (*recovered.entries, *kept.entries)}
    made = [item.name for item in model.graph.input]
    made += [name for node in model.graph.node for name in node.output]
    order = {name: index for index, name in enumerate(made)}
    return BNTable(entries=tuple(sorted(entries.values(), key=lambda item: order[item.tensor])))
