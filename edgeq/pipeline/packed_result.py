"""What `edgeq weight-only` made, as its results file and as words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeq.core.numerics import sqnr_db
from edgeq.core.quantized import PackedMatrix
from edgeq.core.specs import TargetCard
from edgeq.graph.pack_weights import MatrixSite, Untouched

Matrix = NDArray[np.float32]

MODEL, RESULTS, BUNDLE = "model.qdq.onnx", "results.json", "bundle"


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedResult:
    """What `run_weight_only` made.

    Attributes:
        folder: where it lies.
        results: the content of `results.json`.
    """

    folder: Path
    results: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Return the plain form."""
        return {"folder": str(self.folder), **self.results}

    def lines(self) -> list[str]:
        """Return what a user tells a colleague."""
        found, size = self.results, self.results["size_bytes"]
        kept = sum(item["rows_in_float"] for item in found["matrices"])
        lines = [
            f"{len(found['matrices'])} matrices in 4 bits for {found['target']}, activations in float"
            + (f"; {kept} outlying inputs in float" if kept else ""),
        ]
        for item in found["agreement"]["outputs"]:
            share = item["top1_match_ratio"]
            classes = "" if share is None else f", same top class on {100 * share:.1f} %"
            lines.append(
                f"output '{item['b']}': SQNR {item['sqnr_db']:.1f} dB{classes} ({found['samples']})"
            )
        lines.append(
            f"size: {size['before'] / 1e3:.0f} kB before, {size['after'] / 1e3:.0f} kB after"
        )
        lines += [f"note: {finding}" for finding in found["findings"]]
        if found["runtime"] == "tensorrt":
            lines.append(
                f"no engine was built here; {BUNDLE}/build.sh builds it on the board (INT4 was not tried on one)"
            )
        return lines


def describe_packing(
    sites: Sequence[MatrixSite],
    packed: Mapping[str, PackedMatrix],
    values: Mapping[str, Matrix],
    untouched: Sequence[Untouched],
) -> dict[str, Any]:
    """Return the plain form of what was packed, and of what was not."""
    return {
        "matrices": [_describe(site, packed[site.tensor], values[site.tensor]) for site in sites],
        "left_in_float": [
            {"node": item.node, "op_type": item.op_type, "reason": item.reason}
            for item in untouched
        ],
    }


def _describe(site: MatrixSite, matrix: PackedMatrix, values: Matrix) -> dict[str, Any]:
    """Return the plain form of one packed weight; its SQNR is 200 where nothing was lost."""
    return {
        "tensor": site.tensor,
        "readers": list(site.readers),
        "inputs": site.inputs,
        "outputs": site.outputs,
        "block": matrix.block,
        "rows_in_float": len(matrix.rows),
        "sqnr_db": min(sqnr_db(values, matrix.weight()), 200.0),
    }


def tell_runtime(card: TargetCard) -> list[str]:
    """Return what a user of ONNX Runtime has to set; measured with 1.31 (tensorrt.md 7.2)."""
    if card.runtime != "onnxruntime":
        return []
    text = (
        "with its default options ONNX Runtime quantizes the activations of such a product to 8 bits; "
        "the session option session.qdq_matmulnbits_accuracy_level=1 keeps them float"
    )
    return [text]


def tell_untouched(untouched: Sequence[Untouched]) -> list[str]:
    """Return one sentence for each reason, with how many nodes it holds for."""
    by_reason: dict[str, list[str]] = {}
    for item in untouched:
        by_reason.setdefault(item.reason, []).append(f"{item.op_type} '{item.node}'")
    return [
        f"{nodes[0]}{f' and {len(nodes) - 1} more' if len(nodes) > 1 else ''} in float: {reason}"
        for reason, nodes in by_reason.items()
    ]
