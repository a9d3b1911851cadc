"""Conv, ConvTranspose, Gemm and MatMul: the activation per tensor, the weight per output channel, the bias in float.

Source: TensorRT developer guide, Q/DQ layer-placement recommendations 1, 2 and 7: quantize all inputs of weighted
operations and not their outputs, so that BatchNorm, activation and residual Add stay fused to them.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx

from edgeq.core.plan import Role
from edgeq.core.specs import TargetCard
from edgeq.graph.placement.flow import is_attention
from edgeq.graph.placement.rule import PlacementView, Wish, label, placement_rule, site_of
from edgeq.graph.view import GraphView, attribute

# Below these sizes ModelOpt leaves a matrix product in FP16: the INT8 kernel does not pay (tensorrt.md 2.4).
SMALL_MATRIX = 16


@placement_rule("conv", "Conv")
def quantize_conv(view: PlacementView, node: onnx.NodeProto, card: TargetCard) -> list[Wish]:
    """Quantize input and weight of a dense or grouped convolution."""
    return [] if is_depthwise(view, node) else weighted_wishes(view, node, "conv")


@placement_rule("depthwise", "Conv")
def quantize_depthwise(view: PlacementView, node: onnx.NodeProto, card: TargetCard) -> list[Wish]:
    """Quantize a depthwise convolution like any other, with a scale for each of its channels."""
    if not is_depthwise(view, node):
        return []
    note = "depthwise, so every channel has a range of its own"
    return weighted_wishes(view, node, "depthwise", note=note)


@placement_rule("transposed conv", "ConvTranspose")
def quantize_conv_transpose(
    view: PlacementView, node: onnx.NodeProto, card: TargetCard
) -> list[Wish]:
    """Quantize a transposed convolution of one group; a grouped one stays float."""
    return weighted_wishes(view, node, "transposed conv")


@placement_rule("matrix product", "Gemm", "MatMul")
def quantize_matrix_product(
    view: PlacementView, node: onnx.NodeProto, card: TargetCard
) -> list[Wish]:
    """Quantize a product with a constant matrix; one of two activations stays float."""
    if is_attention(view, node):
        return []
    return weighted_wishes(view, node, "matrix product", note=_size_note(view, node))


def is_depthwise(view: GraphView, node: onnx.NodeProto) -> bool:
    """Return true if every group of the convolution has one input channel and there are several groups."""
    shape = view.shape(node.input[1])
    return attribute(node, "group", 1) != 1 and shape is not None and shape[1] == 1


def why_float(view: GraphView, node: onnx.NodeProto) -> str | None:
    """Return why a weighted node must stay float, or None if it can be quantized."""
    if view.constant_root(node.input[0]) is not None:
        return "its first operand is a constant; only a constant second operand is a weight"
    if view.constant_root(node.input[1]) is None:
        return "its weight is computed at run time, and per-channel scales are for constants only"
    weight = view.constant(node.input[1])
    if weight is None or weight.dtype != np.float32:
        return "its weight is not float32"
    if weight.ndim < 2:
        return "its weight is a vector, for which there is no INT8 kernel"
    if node.op_type == "ConvTranspose" and attribute(node, "group", 1) != 1:
        return "grouped transposed convolutions have no per-channel axis that TensorRT accepts"
    return None


def channel_axis(node: onnx.NodeProto, ndim: int) -> int:
    """Return the output-channel axis of the weight of `node`, an array of `ndim` axes."""
    if node.op_type == "MatMul":
        return ndim - 1
    if node.op_type == "ConvTranspose":
        return 1
    if node.op_type == "Gemm":
        return 0 if attribute(node, "transB", 0) else 1
    return 0


def weighted_wishes(
    view: PlacementView,
    node: onnx.NodeProto,
    rule: str,
    *,
    note: str = "",
    bias: Callable[[PlacementView, onnx.NodeProto], list[Wish]] | None = None,
) -> list[Wish]:
    """Return the wishes on input, weight and bias (by the function `bias`; float without one) of a weighted node."""
    cause = why_float(view, node)
    if cause is not None:
        reason = f"{label(node)} stays float: {cause}"
        return [
            Wish(tensor=name, site=site_of(node, index), quantize=False, rule=rule, reason=reason)
            for index, name in enumerate(node.input[:2])
            if view.constant_root(name) is None
        ]
    weight = view.constant_root(node.input[1])
    values = view.constant(node.input[1])
    assert weight is not None
    assert values is not None
    tail = f"; {note}" if note else ""
    wishes = [
        Wish(
            tensor=node.input[0],
            site=site_of(node, 0),
            quantize=True,
            rule=rule,
            reason=f"input of {label(node)}{tail}",
        ),
        Wish(
            tensor=weight,
            site=site_of(node, 1),
            quantize=True,
            rule=rule,
            reason=f"weight of {label(node)}, one scale an output channel{tail}",
            role=Role.WEIGHT,
            axis=channel_axis(node, values.ndim),
        ),
    ]
    return wishes + (bias or _bias_wish)(view, node)


def _bias_wish(view: PlacementView, node: onnx.NodeProto) -> list[Wish]:
    root = view.constant_root(node.input[2]) if len(node.input) > 2 and node.input[2] else None
    if root is None:
        return []
    return [
        Wish(
            tensor=root,
            site=site_of(node, 2),
            quantize=False,
            rule="bias",
            reason=f"bias of {label(node)}: the INT8 kernel adds it in higher precision",
            role=Role.WEIGHT,
        )
    ]


def _size_note(view: GraphView, node: onnx.NodeProto) -> str:
    shape = view.shape(node.input[1])
    if shape is None or view.constant_root(node.input[1]) is None or len(shape) < 2:
        return ""
    if min(size or SMALL_MATRIX for size in shape[-2:]) >= SMALL_MATRIX:
        return ""
    return f"a small product ({'x'.join(str(size) for size in shape)}), so INT8 saves memory rather than time"
