"""Checks of the parameters of each Q and DQ: scale, zero point, types, axis.

Source: the parser of TensorRT 8.6 to 10.15 (onnx-tensorrt) and NvInfer.h; where versions differ the strictest counts.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx

from edgeq.core.specs import NumberFormat, TargetCard
from edgeq.graph.lint.check import DQ, LintView, Q, lint_check
from edgeq.graph.placement.flow import WEIGHTED
from edgeq.graph.placement.weighted import channel_axis
from edgeq.graph.view import attribute, node_id

_INT8 = int(onnx.TensorProto.INT8)
_INT32 = int(onnx.TensorProto.INT32)
PACKED = frozenset({int(onnx.TensorProto.INT4), int(onnx.TensorProto.FLOAT4E2M1)})
# Types newer than TensorRT 8, whose parser wanted a zero point; without one it is 0.
_NEWER = PACKED | {int(onnx.TensorProto.FLOAT8E4M3FN)}


@lint_check(
    "qdq.inputs",
    why="the parser of TensorRT 8 demands a zero point, and without one ONNX means UINT8 where TensorRT means INT8",
    mend="give Q and DQ their data, scale and an INT8 zero point",
)
def check_inputs(view: LintView, card: TargetCard) -> Iterator[tuple[str, str]]:
    """Find Q and DQ nodes without all three inputs; types that TensorRT 8 has not may go without a zero point."""
    for node in view.each(Q, DQ):
        count = len([name for name in node.input if name])
        codes = node.output[0] if node.op_type == Q else node.input[0]
        if count != 3 and not (count == 2 and element_type(view, codes) in _NEWER):
            yield node_id(node), f"{node.op_type} has {count} inputs instead of 3"


@lint_check(
    "qdq.zero-point",
    why="TensorRT quantizes symmetrically: it refuses any zero point that is not a constant 0",
    mend="use a signed symmetric grid with zero point 0",
)
def check_zero_point(view: LintView, card: TargetCard) -> Iterator[tuple[str, str]]:
    """Find zero points that are computed, or not all zeros."""
    for node in view.each(Q, DQ):
        if len(node.input) < 3 or not node.input[2]:
            continue
        cast = view.producer(node.input[2])  # NvInfer.h: a Constant, or the Cast of one
        is_cast = cast is not None and cast.op_type == "Cast"
        value = view.operand(cast, 0) if is_cast and cast is not None else view.operand(node, 2)
        if value is None:
            yield node_id(node), f"zero point '{node.input[2]}' is computed at run time"
        elif np.any(value):
            yield node_id(node), f"zero point '{node.input[2]}' is not 0"


@lint_check(
    "qdq.zero-point-shape",
    why="the parser demands as many zero points as scales",
    mend="give the zero point the shape of the scale",
)
def check_zero_point_shape(view: LintView, card: TargetCard) -> Iterator[tuple[str, str]]:
    """Find zero points that are more or fewer than the scales; a scalar and a vector of one are the same here."""
    for node in view.each(Q, DQ):
        scale, zero = view.operand(node, 1), view.operand(node, 2)
        if scale is not None and zero is not None and scale.size != zero.size:
            yield (
                node_id(node),
                f"zero point of shape {zero.shape}, scale of shape {scale.shape}",
            )


@lint_check(
    "qdq.type",
    why="UINT8 is refused, or silently read as INT8, which shifts the range; other types run on some chips only",
    mend="use INT8 codes and an INT8 zero point; `edgeq targets --show` lists the formats that run",
)
def check_type(view: LintView, card: TargetCard) -> Iterator[tuple[str, str]]:
    """Find codes or zero points of a type that the target does not run (an int32 bias has its own check)."""
    for node in view.each(Q, DQ):
        indices = [2] if node.op_type == Q else [0, 2]
        names = [node.input[index] for index in indices if len(node.input) > index]
        kinds = {element_type(view, name) for name in names if name} - {0, *_types(node, card)}
        if kinds and not _is_bias(view, node):
            words = ", ".join(onnx.TensorProto.DataType.Name(kind) for kind in sorted(kinds))
            yield node_id(node), f"{node.op_type} of {words}"


@lint_check(
    "qdq.bias",
    why="TensorRT takes biases in float only; an int32 bias behind a DQ fails to build",
    mend="keep the bias as a float initializer",
)
def check_bias(view: LintView, card: TargetCard) -> Iterator[tuple[str, str]]:
    """Find DQ nodes on int32 data."""
    for node in view.each(DQ):
        if _is_bias(view, node):
            yield node_id(node), f"DequantizeLinear of the int32 tensor '{node.input[0]}'"


@lint_check(
    "qdq.scale-constant",
    why="the scale of a static Q or DQ has to be known when the engine is built",
    mend="store the scale as an initializer",
)
def check_scale_constant(view: LintView, card: TargetCard) -> Iterator[tuple[str, str]]:
    """Find scales that are computed."""
    for node in view.each(Q, DQ):
        if view.operand(node, 1) is None:
            yield node_id(node), "its scale is computed at run time or missing"


@lint_check(
    "qdq.scale-positive",
    everywhere=True,
    why="the parser refuses scales that are not greater than 0; NaN and infinity give garbage",
    mend="look for a dead or broken tensor; a scale is amax / 127",
)
def check_scale_positive(view: LintView, card: TargetCard) -> Iterator[tuple[str, str]]:
    """Find scales that are zero, negative or not finite."""
    for node in view.each(Q, DQ):
        scale = view.operand(node, 1)
        if scale is not None and not np.all(
            np.isfinite(scale.astype(np.float64)) & (scale.astype(np.float64) > 0)
        ):
            yield (
                node_id(node),
                f"scale '{node.input[1]}' has a value that is not positive and finite",
            )


@lint_check(
    "qdq.scale-shape",
    why="INT8 has one scale a tensor, or one for each index of one axis",
    mend="give a scalar, or a vector as long as the channel axis",
)
def check_scale_shape(view: LintView, card: TargetCard) -> Iterator[tuple[str, str]]:
    """Find scales of two and more axes, or of another length than their axis."""
    for node in view.each(Q, DQ):
        scale, shape = view.operand(node, 1), view.shape(node.input[0])
        if scale is None or scale.size == 1:
            continue
        if scale.ndim != 1:
            if is_packed(view, node):
                continue  # blocks: qdq.packed-shape
            yield node_id(node), f"scale of {scale.ndim} axes"
        elif shape is not None:
            axis = int(attribute(node, "axis", 1))  # type: ignore[call-overload]
            if not -len(shape) <= axis < len(shape):
                yield node_id(node), f"axis {axis} of a tensor of {len(shape)} axes"
            elif shape[axis] is not None and shape[axis] != scale.size:
                yield node_id(node), f"{scale.size} scales for an axis of length {shape[axis]}"


@lint_check(
    "qdq.axis",
    why="parsers differ in the axis that they take when none is written: 0 in TensorRT 8.6 to 10.1, 1 in 10.15",
    mend="write the attribute axis",
)
def check_axis(view: LintView, card: TargetCard) -> Iterator[tuple[str, str]]:
    """Find per-channel nodes without a written axis."""
    for node in view.each(Q, DQ):
        scale = view.operand(node, 1)
        if scale is not None and scale.size > 1 and attribute(node, "axis") is None:
            yield node_id(node), f"{scale.size} scales, but no attribute axis"


@lint_check(
    "qdq.per-channel-activation",
    why="TensorRT takes per-channel scales on constant weights only",
    mend="use one scale for an activation",
)
def check_per_channel_activation(view: LintView, card: TargetCard) -> Iterator[tuple[str, str]]:
    """Find per-channel scales on data that are no constant."""
    for node in view.each(Q, DQ):
        scale = view.operand(node, 1)
        if scale is not None and scale.size > 1 and not _is_constant_data(view, node):
            yield node_id(node), f"{scale.size} scales on the activation '{node.input[0]}'"


@lint_check(
    "qdq.channel-axis",
    why="the scales of a weight have to lie along its output channels, or the kernel cannot apply them",
    mend="use axis 0 for Conv and Gemm with transB, 1 for ConvTranspose and Gemm, the last for MatMul",
)
def check_channel_axis(view: LintView, card: TargetCard) -> Iterator[tuple[str, str]]:
    """Find weights whose channel axis is not the one of their reader."""
    for node in view.each(DQ):
        scale, shape = view.operand(node, 1), view.shape(node.input[0])
        if scale is None or scale.size == 1 or scale.ndim > 1 or not shape:
            continue
        axis = int(attribute(node, "axis", 1))  # type: ignore[call-overload]
        for reader, index in view.consumers(node.output[0]):
            if reader.op_type not in WEIGHTED or index != 1:
                continue
            wanted = channel_axis(reader, len(shape))
            if axis % len(shape) != wanted:
                yield (
                    node_id(node),
                    f"channel axis {axis}, but {reader.op_type} '{node_id(reader)}' needs {wanted}",
                )


@lint_check(
    "qdq.scalar-data",
    why="a Q or DQ of a scalar is refused",
    mend="leave scalars in float",
)
def check_scalar_data(view: LintView, card: TargetCard) -> Iterator[tuple[str, str]]:
    """Find Q and DQ nodes on data without axes."""
    for node in view.each(Q, DQ):
        if view.shape(node.input[0]) == ():
            yield node_id(node), f"'{node.input[0]}' is a scalar"


def _types(node: onnx.NodeProto, card: TargetCard) -> set[int]:
    """Return the element types of codes that TensorRT takes at this node on the target."""
    found = {_INT8}
    if NumberFormat.FP8 in card.formats:
        found.add(int(onnx.TensorProto.FLOAT8E4M3FN))
    if NumberFormat.NVFP4 in card.formats:
        found.add(int(onnx.TensorProto.FLOAT4E2M1))
    if NumberFormat.INT4_WEIGHTS in card.formats and node.op_type == DQ:
        found.add(int(onnx.TensorProto.INT4))
    return found


def is_packed(view: LintView, node: onnx.NodeProto) -> bool:
    """Return true for the DQ of a weight of 4 bits, which has rules of its own (`weight_only`)."""
    return node.op_type == DQ and element_type(view, node.input[0]) in PACKED


def element_type(view: LintView, tensor: str) -> int:
    """Return the ONNX element type of `tensor`, constant or not; 0 where it is unknown."""
    value = view.constant(tensor) if view.constant_root(tensor) is not None else None
    if value is None:
        return view.element_type(tensor)
    return int(onnx.helper.np_dtype_to_tensor_dtype(value.dtype))


def _is_bias(view: LintView, node: onnx.NodeProto) -> bool:
    return node.op_type == DQ and element_type(view, node.input[0]) == _INT32


def _is_constant_data(view: LintView, node: onnx.NodeProto) -> bool:
    tensor = node.input[0]
    maker = view.producer(tensor)
    if node.op_type == DQ and maker is not None and maker.op_type == Q:
        tensor = maker.input[0]
    return view.constant_root(tensor) is not None
