"""Checks of number formats: does the chip have them, do weights stand in the form that this TensorRT takes.

Source: deployment/tensorrt.md 2.1, 2.5, 2.8, 9B.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx

from edgeq.core.specs import TargetCard
from edgeq.graph.lint.check import DQ, LintView, Q, Severity, lint_check
from edgeq.graph.lint.scales import is_packed
from edgeq.graph.view import node_id

# The smallest normal FP16 number: below it a scale loses bits, and soon becomes 0.
_HALF_NORMAL = 2.0**-14
_BLOCKS = (64, 128)


@lint_check(
    "target.int8",
    why="the chip has no INT8 arithmetic; its TensorRT builds FP32 and FP16 engines only",
    mend="build the float model with --fp16, or choose a target with int8: `edgeq targets`",
)
def check_target(view: LintView, card: TargetCard) -> Iterator[tuple[str, str]]:
    """Find any Q/DQ in a model for a chip without INT8; told once."""
    nodes = list(view.each(Q, DQ))
    if nodes and not card.has_int8:
        yield "", f"{len(nodes)} Q/DQ nodes, and '{card.name}' runs no INT8"


@lint_check(
    "qdq.prequantized-weight",
    severity=Severity.WARNING,
    why="TensorRT 8 wants FP32 weights with a Q/DQ pair; INT8 initializers in front of a DQ are unproven there",
    mend="store the weight in FP32 and put QuantizeLinear and DequantizeLinear behind it",
)
def check_prequantized(view: LintView, card: TargetCard) -> Iterator[tuple[str, str]]:
    """Find weights that are stored as codes, for targets that want them in float."""
    if card.prequantized_weights:
        return
    for node in view.each(DQ):
        if view.constant_root(node.input[0]) is not None:
            yield node_id(node), f"weight '{node.input[0]}' is stored as codes"


@lint_check(
    "qdq.scale-half",
    severity=Severity.WARNING,
    why="an FP16 scale below the normal numbers has lost bits; one that becomes 0 is refused",
    mend="keep this layer in FP32, or give the tensor a wider range",
)
def check_half_scales(view: LintView, card: TargetCard) -> Iterator[tuple[str, str]]:
    """Find FP16 scales that are subnormal."""
    for node in view.each(Q, DQ):
        scale = view.operand(node, 1)
        if scale is None or scale.dtype != np.float16:
            continue
        smallest = float(np.min(np.abs(scale.astype(np.float32)), initial=np.inf))
        if 0 < smallest < _HALF_NORMAL:
            yield node_id(node), f"FP16 scale of {smallest:.3g}"


@lint_check(
    "qdq.packed-reader",
    why="TensorRT has INT4 and FP4 weights for MatMul and Gemm only; no version has such convolutions",
    mend="store the 4-bit grid as INT8: accuracy stays that of the grid, latency is that of INT8",
)
def check_packed_readers(view: LintView, card: TargetCard) -> Iterator[tuple[str, str]]:
    """Find 4-bit weights that something else than the second input of MatMul or Gemm reads."""
    for node in view.each(DQ):
        if not is_packed(view, node):
            continue
        for reader, index in view.consumers(node.output[0]):
            if reader.op_type not in {"Gemm", "MatMul"} or index != 1:
                yield node_id(node), f"{reader.op_type} '{node_id(reader)}' reads this 4-bit weight"


@lint_check(
    "qdq.packed-shape",
    why="two 4-bit codes share a byte, and blocks are read from the shape of the scale",
    mend="pad the weight to an even size, and choose blocks that divide one of its last two axes",
)
def check_packed_shapes(view: LintView, card: TargetCard) -> Iterator[tuple[str, str]]:
    """Find 4-bit weights of odd size, and blocks that do not divide, or lie on another axis."""
    for node in view.each(DQ):
        scale, shape = view.operand(node, 1), view.shape(node.input[0])
        if not is_packed(view, node) or scale is None or shape is None or None in shape:
            continue
        sizes = [size for size in shape if size is not None]
        if int(np.prod(sizes)) % 2:
            yield node_id(node), f"an odd number of 4-bit codes, shape {sizes}"
        if scale.ndim == len(sizes):
            fault = _block_fault(sizes, list(scale.shape))
            if fault:
                yield node_id(node), fault
        elif scale.ndim > 1:
            yield node_id(node), f"scale of shape {list(scale.shape)} for a weight of shape {sizes}"


@lint_check(
    "qdq.packed-block",
    severity=Severity.WARNING,
    why="blocks of 64 and 128 are those that TensorRT's INT4 kernels are known to take",
    mend="quantize the weight again in blocks of 64 or 128",
)
def check_packed_blocks(view: LintView, card: TargetCard) -> Iterator[tuple[str, str]]:
    """Find INT4 weights in blocks of another length (FP4 has its own, 16)."""
    for node in view.each(DQ):
        scale, shape = view.operand(node, 1), view.shape(node.input[0])
        is_int4 = view.element_type(node.input[0]) == onnx.TensorProto.INT4
        if not is_int4 or scale is None or shape is None or scale.ndim != len(shape):
            continue
        lengths = {
            size // count
            for size, count in zip(shape, scale.shape, strict=True)
            if size is not None and count and count != size
        }
        if lengths - set(_BLOCKS):
            yield node_id(node), f"blocks of {', '.join(map(str, sorted(lengths)))}"


def _block_fault(shape: list[int], scale: list[int]) -> str:
    """Return what is wrong with a blocked scale; empty if one of the last two axes is blocked, without a rest."""
    blocked = [
        axis for axis, (size, count) in enumerate(zip(shape, scale, strict=True)) if size != count
    ]
    if not blocked:
        return ""
    if len(blocked) > 1:
        return f"{len(blocked)} blocked axes, scale {scale} of {shape}"
    (axis,) = blocked
    if axis < len(shape) - 2:
        return f"axis {axis} of {len(shape)} is blocked, which is none of the last two"
    if not scale[axis] or shape[axis] % scale[axis]:
        return f"{scale[axis]} blocks do not divide axis {axis} of length {shape[axis]}"
    return ""
