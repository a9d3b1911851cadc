"""Checks of forms of standard operators that TensorRT's parser does not take, or takes at a cost.

Source: onnx-tensorrt's operators.md and importers (deployment/tensorrt.md 2.1).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx

from edgeq.core.specs import TargetCard
from edgeq.graph.lint.check import LintView, Severity, lint_check
from edgeq.graph.view import attribute, node_id

_REDUCTIONS = frozenset(
    {
        "ReduceL1",
        "ReduceL2",
        "ReduceLogSum",
        "ReduceLogSumExp",
        "ReduceMax",
        "ReduceMean",
        "ReduceMin",
        "ReduceProd",
        "ReduceSum",
        "ReduceSumSquare",
    }
)


@lint_check(
    "model.unsupported-form",
    why="TensorRT's parser refuses the operator in this form",
    mend="export the model with the plain form of the operator",
)
def check_forms(view: LintView, card: TargetCard) -> Iterator[tuple[str, str]]:
    """Find MaxPool with indices, dilated pooling, antialiased Resize, and Reduce with computed axes."""
    for node in view.nodes:
        fault = _form_fault(view, node)
        if fault:
            yield node_id(node), fault


def _form_fault(view: LintView, node: onnx.NodeProto) -> str:
    if node.op_type == "MaxPool" and len(node.output) > 1 and node.output[1]:
        return "MaxPool with indices"
    if node.op_type in {"AveragePool", "MaxPool"}:
        dilations = attribute(node, "dilations", [])
        return "dilated pooling" if any(size != 1 for size in dilations) else ""  # type: ignore[attr-defined]
    if node.op_type == "Resize" and attribute(node, "antialias", 0):
        return "Resize with antialiasing"
    if node.op_type in _REDUCTIONS and len(node.input) > 1 and node.input[1]:
        return "" if view.constant_root(node.input[1]) else f"{node.op_type} with computed axes"
    return ""


@lint_check(
    "model.gemm-factors",
    severity=Severity.WARNING,
    why="alpha and beta other than 1 become multiplications of their own and keep the layer from fusing",
    mend="multiply them into the weight and the bias",
)
def check_gemm_factors(view: LintView, card: TargetCard) -> Iterator[tuple[str, str]]:
    """Find Gemm nodes with factors."""
    for node in view.each("Gemm"):
        factors = [attribute(node, name, 1.0) for name in ("alpha", "beta")]
        if factors != [1.0, 1.0]:
            yield node_id(node), f"alpha {factors[0]}, beta {factors[1]}"


@lint_check(
    "model.int64",
    severity=Severity.WARNING,
    why="TensorRT 8 has no INT64 and clamps such values to 32 bits",
    mend="use values that fit; where it is the end of a Slice, clamping changes nothing",
)
def check_int64(view: LintView, card: TargetCard) -> Iterator[tuple[str, str]]:
    """Find INT64 initializers outside the range of INT32, for TensorRT 8."""
    if not card.runtime_version.startswith("8."):
        return
    for name, item in view.initializers.items():
        if item.data_type == onnx.TensorProto.INT64:
            values = view.constant(name)
            if values is not None and np.any(values != values.astype(np.int32)):
                yield name, f"initializer '{name}' has values outside INT32"
