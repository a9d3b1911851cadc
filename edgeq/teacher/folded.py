"""The layers of an ONNX file into which a BatchNorm may have been folded, as rows: one an output channel.

A row is what one output channel multiplies its inputs by; weights [K, R], biases [K].
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import onnx
from numpy.typing import NDArray

from edgeq.graph.view import GraphView, attribute, node_id

LAYERS = ("Conv", "ConvTranspose", "Gemm")

# Relative rounding error of one operation, and the largest value that underflow may lose.
_PRECISION = {
    "float16": (2.0**-11, float(np.finfo(np.float16).smallest_subnormal)),
    "bfloat16": (2.0**-8, float(np.finfo(np.float32).tiny)),
}


def precision(dtype: np.dtype[Any]) -> tuple[float, float]:
    """Return (unit, slack) of an element type; exporters compute in float32 where the type is wider."""
    return _PRECISION.get(dtype.name, (2.0**-24, float(np.finfo(np.float32).tiny)))


@dataclass(frozen=True, slots=True, kw_only=True)
class FoldedLayer:
    """One layer with constant weight and bias.

    Attributes:
        node: its first output.
        shape: of the weight in the file.
        groups: number of groups.
        is_transposed: true for ConvTranspose.
        rows: [K, R], as stored, or float64 where Gemm has a factor `alpha`.
        bias: [K], float64, zeros where there is none.
        longest: the row with the largest value.
        unit, slack: of the weight's type, see `precision`.
    """

    node: str
    shape: tuple[int, ...]
    groups: int
    is_transposed: bool
    rows: NDArray[Any]
    bias: NDArray[np.float64]
    longest: int
    unit: float
    slack: float


@dataclass(frozen=True, slots=True, kw_only=True)
class UnreadLayer:
    """A layer that cannot be compared, and why."""

    node: str
    reason: str


def read_layers(view: GraphView) -> Iterator[FoldedLayer | UnreadLayer]:
    """Yield every Conv, ConvTranspose and Gemm of the main graph in running order."""
    for node in view.nodes:
        if node.op_type in LAYERS and node.domain in {"", "ai.onnx"}:
            found = _read_layer(view, node)
            yield (
                found
                if isinstance(found, FoldedLayer)
                else UnreadLayer(node=node_id(node), reason=found)
            )


def to_rows(weight: NDArray[Any], *, groups: int, is_transposed: bool) -> NDArray[Any]:
    """Return a weight [K, C/G, ...], or a transposed one [C, K/G, ...], as rows [K, R]."""
    if not is_transposed:
        return weight.reshape(len(weight), -1)
    inputs, outputs = weight.shape[:2]
    parts = weight.reshape(groups, inputs // groups, outputs, -1)
    return np.moveaxis(parts, 2, 1).reshape(groups * outputs, -1)


def _read_layer(view: GraphView, node: onnx.NodeProto) -> FoldedLayer | str:
    """Return the layer, or the reason why it cannot be read."""
    bias_name = node.input[2] if len(node.input) > 2 else ""
    weight = view.constant(node.input[1])
    bias = view.constant(bias_name) if bias_name else np.zeros(1, np.float32)
    if weight is None or bias is None:
        return "its weight or bias is computed, not constant"
    groups = cast("int", attribute(node, "group", 1))
    is_transposed = node.op_type == "ConvTranspose"
    if weight.ndim < 2 or not weight.size or groups < 1 or len(weight) % groups:
        return f"a weight {list(weight.shape)} in {groups} groups has no channels to compare"
    rows = to_rows(weight, groups=groups, is_transposed=is_transposed)
    offset = bias.astype(np.float64).reshape(-1)
    if node.op_type == "Gemm":
        rows = weight if attribute(node, "transB", 0) else weight.T
        alpha = cast("float", attribute(node, "alpha", 1.0))
        rows = rows if alpha == 1 else rows.astype(np.float64) * alpha
        offset = offset * cast("float", attribute(node, "beta", 1.0))
    if offset.size not in (1, len(rows)) or math.prod(bias.shape[:-1]) != 1:
        return f"its bias {list(bias.shape)} is not one value a channel"
    unit, slack = precision(weight.dtype)
    return FoldedLayer(
        node=node_id(node),
        shape=weight.shape,
        groups=groups,
        is_transposed=is_transposed,
        rows=rows,
        bias=np.broadcast_to(offset, len(rows)),
        longest=int(np.abs(rows.astype(np.float32)).max(axis=1).argmax()),
        unit=unit,
        slack=slack,
    )
