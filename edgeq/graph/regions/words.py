"""How a region's precision is called, and the reason for it in words."""

from __future__ import annotations

from collections.abc import Sequence

import onnx
from onnx import TensorProto

from edgeq.core.specs import TargetCard
from edgeq.graph.lint.check import Q
from edgeq.graph.placement.weighted import is_depthwise
from edgeq.graph.regions.kernels import RegionView
from edgeq.graph.storage import type_name
from edgeq.graph.view import attribute

_FLOATS = {int(TensorProto.FLOAT16): "fp16", int(TensorProto.BFLOAT16): "bf16"}
_CODES = {
    int(TensorProto.FLOAT8E4M3FN): "fp8",
    int(TensorProto.INT4): "int4",
    int(TensorProto.FLOAT4E2M1): "fp4",
}

# ModelOpt leaves smaller matrix products, and convolutions of fewer channels, in FP16 (tensorrt.md 2.4).
_SMALL = 16


def name_float(view: RegionView, card: TargetCard, tensor: str) -> str:
    """Return the float type in which `tensor` is computed on the target."""
    kind = view.element_type(tensor)
    if kind == TensorProto.FLOAT and tensor in view.inputs:
        return "fp32"
    if kind in _FLOATS:
        return _FLOATS[kind]
    if kind not in {TensorProto.FLOAT, TensorProto.UNDEFINED}:
        return type_name(kind).lower()
    return "fp16 or fp32" if card.weak_typing else "fp32"


def name_format(view: RegionView, node: onnx.NodeProto) -> str:
    """Return the format of the codes of a Q or DQ."""
    tensor = node.output[0] if node.op_type == Q else node.input[0]
    return _CODES.get(view.element_type(tensor), "int8")


def describe_kernel(
    view: RegionView,
    card: TargetCard,
    node: onnx.NodeProto,
    formats: Sequence[str],
    precision: str,
) -> str:
    """Return why the kernel of a weighted node runs in `precision`; `formats` are those of its two operands."""
    held = [name for name in formats if name != "float"]
    if formats[1] == "int4" and formats[0] == "float":
        return "the product is computed in float; its weight is unpacked on the way"
    if len(held) == 1:
        word = "activation" if formats[0] != "float" else "weight"
        return f"only its {word} is quantized, and there is no kernel for that: it runs in float"
    if not held:
        return _describe_float_kernel(view, node)
    ends = (
        "a Q follows"
        if " out" not in precision
        else "its result leaves in float: no Q follows for all readers"
    )
    return "; ".join(["both operands are quantized", ends, *_doubts(view, card, node)])


def describe_float(view: RegionView, node: onnx.NodeProto) -> str:
    """Return why a node without weights runs in float."""
    if any(view.dequantizer(name) is not None for name in view.operands(node)):
        return "INT8 comes in, but a layer without weights has to give INT8, too, and its result is read in float"
    if "Normalization" in node.op_type or node.op_type in {"LogSoftmax", "Softmax"}:
        return "normalisations run in float"
    return "its operands are not quantized"


def _describe_float_kernel(view: RegionView, node: onnx.NodeProto) -> str:
    if node.input[1] in view.static:
        return "neither operand is quantized"
    return "a product of two activations, left in float; in an attention block it may merge with the Softmax"


def _doubts(view: RegionView, card: TargetCard, node: onnx.NodeProto) -> list[str]:
    """Return what speaks against an INT8 kernel although all is in place."""
    doubts = []
    shape = view.shape(node.input[1]) or ()
    sizes = [size or _SMALL for size in shape]
    if node.op_type == "Conv" and is_depthwise(view, node):
        doubts.append("depthwise: an activation behind it stays a kernel of its own")
        if card.runtime_version.startswith("8."):
            doubts.append(
                "TensorRT 8.5 and 8.6 are reported to lack kernels for some depthwise shapes"
            )
    elif node.op_type == "Conv" and len(sizes) > 1 and attribute(node, "group", 1) == 1:
        outs, ins = sizes[:2]
        if min(outs, ins) < _SMALL and outs % 8 and ins % 8:
            doubts.append(f"{ins} and {outs} channels are no multiples of 8: it may run in float")
    elif node.op_type in {"Gemm", "MatMul"} and len(sizes) > 1 and min(sizes[-2:]) < _SMALL:
        doubts.append(f"a small product ({sizes[-2]}x{sizes[-1]}): it may run in float")
    return doubts
