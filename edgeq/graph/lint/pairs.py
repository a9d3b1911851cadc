"""Checks of how Q and DQ nodes stand to each other and to their readers."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx

from edgeq.core.specs import TargetCard
from edgeq.graph.lint.check import DQ, LintView, Q, Severity, lint_check
from edgeq.graph.placement.flow import WEIGHTED
from edgeq.graph.view import node_id

_BREAKS_WEIGHT = frozenset({"Cast", "Flatten", "Reshape", "Squeeze", "Transpose", "Unsqueeze"})


@lint_check(
    "qdq.pair-scale",
    everywhere=True,
    why="a DQ that does not undo its Q rescales the tensor",
    mend="give both nodes the same scale initializer",
)
def check_pair_scale(view: LintView, card: TargetCard) -> Iterator[tuple[str, str]]:
    """Find pairs whose two scales are not equal bit for bit."""
    for node in view.each(DQ):
        quantizer = view.producer(node.input[0])
        if (
            quantizer is not None
            and quantizer.op_type == Q
            and not _same_scale(view, quantizer, node)
        ):
            yield node_id(node), f"its scale is not that of QuantizeLinear '{node_id(quantizer)}'"


@lint_check(
    "qdq.q-reader",
    why="INT8 tensors exist only between Q and DQ",
    mend="put a DQ behind the Q",
)
def check_q_reader(view: LintView, card: TargetCard) -> Iterator[tuple[str, str]]:
    """Find Q nodes that feed something else than a DQ."""
    for node in view.each(Q):
        for reader, _ in view.consumers(node.output[0]):
            if reader.op_type != DQ:
                yield node_id(node), f"{reader.op_type} '{node_id(reader)}' reads its INT8 output"


@lint_check(
    "qdq.unread",
    everywhere=True,
    severity=Severity.WARNING,
    why="it does nothing but hide the intent of whoever placed it",
    mend="remove the node",
)
def check_unread(view: LintView, card: TargetCard) -> Iterator[tuple[str, str]]:
    """Find Q and DQ nodes whose output nobody reads."""
    for node in view.each(Q, DQ):
        if not view.consumers(node.output[0]) and node.output[0] not in view.outputs:
            yield node_id(node), f"nobody reads the output of this {node.op_type}"


@lint_check(
    "qdq.requantize",
    everywhere=True,
    severity=Severity.WARNING,
    why="equal scales cancel; different ones cost a kernel and a second rounding",
    mend="quantize the tensor once, or give both pairs one scale",
)
def check_requantize(view: LintView, card: TargetCard) -> Iterator[tuple[str, str]]:
    """Find a DQ that feeds a Q of another scale."""
    for node in view.each(Q):
        dequantizer = view.producer(node.input[0])
        if (
            dequantizer is not None
            and dequantizer.op_type == DQ
            and not _same_scale(view, dequantizer, node)
        ):
            yield (
                node_id(node),
                f"it quantizes what DequantizeLinear '{node.input[0]}' has just given",
            )


@lint_check(
    "qdq.two-origins",
    severity=Severity.WARNING,
    everywhere=True,
    why="TensorRT quantizes the tensor once a scale, and its readers disagree on what the values are",
    mend="quantize the tensor once and let all readers share the pair",
)
def check_two_origins(view: LintView, card: TargetCard) -> Iterator[tuple[str, str]]:
    """Find tensors that are quantized with different scales."""
    for tensor in dict.fromkeys(node.input[0] for node in view.each(Q)):
        quantizers = [node for node, i in view.consumers(tensor) if node.op_type == Q and i == 0]
        if any(not _same_scale(view, quantizers[0], other) for other in quantizers[1:]):
            yield tensor, f"'{tensor}' is quantized {len(quantizers)} times, with different scales"


@lint_check(
    "qdq.weight-path",
    why="TensorRT knows a constant weight only if DequantizeLinear feeds the layer directly",
    mend="store the weight in the form in which the layer reads it",
)
def check_weight_path(view: LintView, card: TargetCard) -> Iterator[tuple[str, str]]:
    """Find operators between the DQ of a constant weight and its layer."""
    for node in view.each(*WEIGHTED):
        maker = view.producer(node.input[1])
        if maker is None or maker.op_type not in _BREAKS_WEIGHT:
            continue
        dequantizer = view.dequantizer(maker.input[0])
        if dequantizer is not None and _is_weight(view, dequantizer):
            yield (
                node_id(node),
                f"{maker.op_type} '{node_id(maker)}' stands between the weight's DQ and this {node.op_type}",
            )


def _same_scale(view: LintView, left: onnx.NodeProto, right: onnx.NodeProto) -> bool:
    a, b = view.operand(left, 1), view.operand(right, 1)
    if a is None or b is None:
        return True  # qdq.scale-constant reports it
    if a.dtype != b.dtype:  # an FP16 scale and the same number in FP32
        return np.array_equal(a.astype(np.float64), b.astype(np.float64))
    return a.shape == b.shape and np.asarray(a).tobytes() == np.asarray(b).tobytes()


def _is_weight(view: LintView, dequantizer: onnx.NodeProto) -> bool:
    source = dequantizer.input[0]
    return view.constant_root(source) is not None or (
        view.constant_root(view.source(dequantizer.output[0])) is not None
    )
