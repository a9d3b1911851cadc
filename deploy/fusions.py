"""Which operators ONNX Runtime computes on integers, read back from the graph that its optimiser leaves.

`read_fusions` also runs the optimised graph: its kernels round once where Q and DQ round twice, which costs codes, and
a processor without VNNI may saturate sums of products, which costs everything. Neither shows in the Q/DQ file.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

from deploy.differences import Difference
from deploy.onnxrt import Array, Session
from edgeq.core.serial import Spec
from edgeq.graph.view import GraphView

_CONVERSIONS = frozenset({"DequantizeLinear", "QuantizeLinear"})
_INTEGER_NAMES = ("QLinear", "QGemm", "MatMulInteger", "DynamicQuantize", "QAttention")
# They only move values, so their type does not matter much.
_MOVES = frozenset(
    {
        *("Concat", "Expand", "Flatten", "Gather", "Identity", "MaxPool", "NhwcMaxPool", "Pad"),
        *("Reshape", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze"),
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class FusionReport(Spec):
    """What the optimiser made of a Q/DQ model.

    Attributes:
        runtime_version: of ONNX Runtime.
        integer: operators that compute on integers, by type, with their number.
        conversions: nodes that quantize or dequantize a tensor.
        floats: operators that compute in float, as "Type 'name'", in graph order.
        sqnr_db: by output, the optimised graph against the written one on the given inputs; 200 if equal.
    """

    runtime_version: str
    integer: dict[str, int]
    conversions: int
    floats: tuple[str, ...]
    sqnr_db: dict[str, float]

    def summary(self) -> str:
        """Return the finding in one line."""
        rest = f", {len(self.floats)} in float" if self.floats else ", none in float"
        worst = min(self.sqnr_db.values(), default=0.0)
        return (
            f"ONNX Runtime {self.runtime_version} computes {sum(self.integer.values())} operators on integers{rest}; "
            f"{self.conversions} conversions; optimised against written at {worst:.1f} dB"
        )


def read_fusions(model: onnx.ModelProto, inputs: Mapping[str, Array]) -> FusionReport:
    """Return which operators of `model` ONNX Runtime computes on integers here, and what its kernels change.

    Args:
        model: a Q/DQ model.
        inputs: by name, [N, ...]; for the comparison of both graphs.

    Raises:
        ModelError: if ONNX Runtime cannot load or run the model.
        NumericsError: if an output has NaN or infinity.
    """
    import onnxruntime

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "optimised.onnx"
        optimised = Session(model, optimise=True, save=path)
        view = GraphView(onnx.load(path))
    want, got = Session(model).run(inputs), optimised.run(inputs)
    return FusionReport(
        runtime_version=onnxruntime.__version__,
        integer=dict(Counter(node.op_type for node in view.nodes if _is_integer(node))),
        conversions=sum(node.op_type in _CONVERSIONS for node in view.nodes),
        floats=tuple(
            f"{node.op_type} '{node.name}'" for node in view.nodes if _is_float(view, node)
        ),
        sqnr_db={name: _sqnr_db(name, want[name], got[name]) for name in want},
    )


def _is_integer(node: onnx.NodeProto) -> bool:
    return node.op_type.startswith(_INTEGER_NAMES)


def _is_float(view: GraphView, node: onnx.NodeProto) -> bool:
    return (
        not _is_integer(node)
        and node.op_type not in _CONVERSIONS | _MOVES
        and view.constant_root(node.output[0]) is None
        and view.element_type(node.output[0]) == onnx.TensorProto.FLOAT
    )


def _sqnr_db(name: str, want: Array, got: Array) -> float:
    if not np.issubdtype(want.dtype, np.floating):
        want, got = want.astype(np.float64), got.astype(np.float64)
    difference = Difference(name)
    difference.add(want, got)
    return difference.sqnr_db
