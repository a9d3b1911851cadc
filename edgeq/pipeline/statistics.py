"""Where the BN table of a build comes from: nodes in the file, else a state dict given beside it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import onnx

from edgeq.core.specs import BNTable


@dataclass(frozen=True, slots=True, kw_only=True)
class Statistics:
    """A BN table and its origin.

    Attributes:
        table: empty where there are no statistics.
        source: "node", "teacher" or "none".
        text: the origin in words, with the number of layers.
        weights_digest: SHA-256 of the state dict that the table was recovered from, else None.
        findings: what the user should know, one sentence each.
    """

    table: BNTable
    source: str
    text: str
    weights_digest: str | None = None
    findings: tuple[str, ...] = ()


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
