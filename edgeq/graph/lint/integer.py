"""Checks of what keeps ONNX Runtime's CPU provider from computing quantized layers on integers.

Source: graphs read back after ONNX Runtime 1.31.1 had optimised them; see `edgeq.graph.placement.integer`.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx

from edgeq.core.specs import TargetCard
from edgeq.graph.lint.check import LintView, Q, Severity, lint_check
from edgeq.graph.placement.flow import clip_ceiling, value_readers
from edgeq.graph.view import node_id

_CLAMPS = frozenset({"Clip", "Relu"})


@lint_check(
    "cpu.result",
    severity=Severity.WARNING,
    runtime="onnxruntime",
    why="an integer convolution needs a quantized result; this one is computed in float between conversions",
    mend="quantize its result for every reader, or leave the whole layer in float",
)
def check_result(view: LintView, card: TargetCard) -> Iterator[tuple[str, str]]:
    """Find convolutions of quantized operands whose result, behind its clamp, is not quantized for all readers."""
    for conv in _integer_convolutions(view):
        quantizers, others = _result_readers(view, conv)
        if others or not quantizers:
            yield node_id(conv), "the result of this Conv is read in float"


@lint_check(
    "cpu.clamp",
    severity=Severity.WARNING,
    runtime="onnxruntime",
    why="a clamp in front of a Q is dropped only if the codes saturate where it does; else the layer stays float",
    mend="use codes whose lowest stands for 0 (UINT8 with zero point 0), and whose highest is not above the clamp",
)
def check_clamp(view: LintView, card: TargetCard) -> Iterator[tuple[str, str]]:
    """Find clamps between a convolution and a Q whose codes reach beyond them."""
    for conv in _integer_convolutions(view):
        for quantizer in _result_readers(view, conv)[0]:
            clamp = view.producer(quantizer.input[0])
            ends = _ends(view, quantizer)
            if clamp is None or clamp.op_type not in _CLAMPS or ends is None:
                continue
            ceiling = clip_ceiling(view, clamp) if clamp.op_type == "Clip" else None
            if ends[0] < 0 or (
                ceiling is not None and ends[1] - ceiling > np.finfo(np.float32).eps
            ):
                yield (
                    node_id(clamp),
                    f"the codes behind this {clamp.op_type} stand for {ends[0]:.4g} to {ends[1]:.4g}",
                )


@lint_check(
    "cpu.bias",
    severity=Severity.WARNING,
    runtime="onnxruntime",
    why="the kernel adds an INT32 bias; a float one is left to newer versions of ONNX Runtime to quantize",
    mend="store the bias as INT32 with the scale of activation times weight, behind a DequantizeLinear",
)
def check_bias(view: LintView, card: TargetCard) -> Iterator[tuple[str, str]]:
    """Find quantized convolutions with a float bias."""
    for conv in _integer_convolutions(view):
        if len(conv.input) > 2 and conv.input[2] and view.dequantizer(conv.input[2]) is None:
            yield node_id(conv), f"its bias '{conv.input[2]}' is float"


def _integer_convolutions(view: LintView) -> Iterator[onnx.NodeProto]:
    return (node for node in view.each("Conv") if view.int8_kernel(node.output[0]) is not None)


def _result_readers(
    view: LintView, conv: onnx.NodeProto
) -> tuple[list[onnx.NodeProto], list[onnx.NodeProto | None]]:
    """Return the Q nodes that read the result of `conv`, and its other readers (None for a model output)."""
    tensor = conv.output[0]
    readers = view.consumers(tensor)
    if len(readers) == 1 and readers[0][0].op_type in _CLAMPS:
        tensor = readers[0][0].output[0]
    nodes = [node for node, _ in value_readers(view, tensor)]
    others: list[onnx.NodeProto | None] = [node for node in nodes if node.op_type != Q]
    if tensor in view.outputs:
        others.append(None)
    return [node for node in nodes if node.op_type == Q], others


def _ends(view: LintView, quantizer: onnx.NodeProto) -> tuple[float, float] | None:
    """Return the values of the lowest and the highest code of a Q; None if they are not known."""
    scale, zero = view.operand(quantizer, 1), view.operand(quantizer, 2)
    if scale is None or zero is None or scale.size != 1:
        return None
    step, middle = float(scale.item()), int(zero.item())
    lowest, highest = (-128, 127) if zero.dtype == np.int8 else (0, 255)
    return (lowest - middle) * step, (highest - middle) * step
