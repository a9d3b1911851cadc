"""The table of layers: how well each agrees with the teacher, and how its weights and inputs lie on their grids."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgeq.core.plan import QuantPlan, Role
from edgeq.report.histograms import Histogram


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorRow:
    """One quantized input of a layer.

    Attributes:
        name: ONNX name.
        role: weight or activation.
        grid: in words.
        histogram: of its values; None where there are none to count.
    """

    name: str
    role: Role
    grid: str
    histogram: Histogram | None


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerRow:
    """One layer.

    Attributes:
        order: 1 for the first in the graph.
        name: the tensor that it makes.
        op_type: its operator.
        sqnr_db: agreement of that tensor with the teacher's; None where it was not compared.
        macs: multiply-accumulates of one run; None where they are not counted.
        macs_pct: their share of those of all layers.
        tensors: its quantized inputs, weights first.
    """

    order: int
    name: str
    op_type: str
    sqnr_db: float | None
    macs: int | None
    macs_pct: float
    tensors: tuple[TensorRow, ...]

    @property
    def clipped_pct(self) -> float:
        """Return the largest share of values that a grid of the layer saturates."""
        found = [item.histogram.clipped_pct for item in self.tensors if item.histogram is not None]
        return max(found, default=0.0)


def gather_layers(
    plan: QuantPlan,
    agreement: Sequence[Mapping[str, Any]],
    histograms: Mapping[str, Histogram],
    macs: Mapping[str, int],
) -> list[LayerRow]:
    """Return the layers, those with most multiply-accumulates first; layers whose products are not counted come last.

    Args:
        plan: the placement.
        agreement: `layers` of agreement.json, in graph order.
        histograms: by tensor name.
        macs: by layer, an estimate of where the time goes.
    """
    inputs: dict[str, list[TensorRow]] = {}
    kinds: dict[str, tuple[str, float | None]] = {
        item["tensor"]: (item["op_type"], item["sqnr_db"]) for item in agreement
    }
    for decision in plan.quantized():
        row = TensorRow(
            name=decision.tensor,
            role=decision.role,
            grid=str(decision.grid),
            histogram=histograms.get(decision.tensor),
        )
        for site in decision.sites:
            kinds.setdefault(site.node, (site.op_type, None))
            inputs.setdefault(site.node, []).append(row)
    total = sum(macs.values()) or 1
    rows = [
        LayerRow(
            order=order,
            name=name,
            op_type=op_type,
            sqnr_db=sqnr_db,
            macs=macs.get(name),
            macs_pct=100 * macs.get(name, 0) / total,
            tensors=tuple(
                sorted(inputs.get(name, ()), key=lambda item: item.role.value, reverse=True)
            ),
        )
        for order, (name, (op_type, sqnr_db)) in enumerate(kinds.items(), 1)
    ]
    return sorted(rows, key=lambda row: -1 if row.macs is None else row.macs, reverse=True)
