"""Which nodes DLA cannot take, each by a named check: `check_dla`.

The limits are those of NvInfer.h and of NVIDIA's list of supported layers (deployment/tensorrt.md 3.5). A node that no
check names may still go to the GPU: DLA's compiler decides. Unverified on hardware.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx

from edgeq.core.serial import Spec
from edgeq.graph.infer_ranks import infer_shapes
from edgeq.graph.view import GraphView, attribute, node_id

_BATCH, _SIZE, _SOFTMAX = 4096, 8192, 1024
_LAYERS = frozenset(
    {
        "Abs",
        "Add",
        "AveragePool",
        "BatchNormalization",
        "Clip",
        "Concat",
        "Conv",
        "ConvTranspose",
        "Dropout",
        "GlobalAveragePool",
        "GlobalMaxPool",
        "Identity",
        "LRN",
        "Max",
        "MaxPool",
        "Min",
        "Mul",
        "PRelu",
        "Relu",
        "Resize",
        "Sigmoid",
        "Slice",
        "Softmax",
        "Sub",
        "Tanh",
    }
)
_ELEMENTWISE = frozenset({"Add", "Max", "Min", "Mul", "Sub"})


@dataclass(frozen=True, slots=True, kw_only=True)
class DlaFinding(Spec):
    """A node that runs on the GPU, because DLA cannot take it.

    Attributes:
        node: by its first output.
        op_type: of the node.
        check: name of the check.
        reason: in words.
    """

    node: str
    op_type: str
    check: str
    reason: str


def check_dla(model: onnx.ModelProto) -> tuple[DlaFinding, ...]:
    """Return the nodes of a float model that DLA cannot take, in file order; the first reason of each.

    Nodes on constants, shapes and integers are left out: they are no layers. So are Q/DQ nodes.
    """
    view = GraphView(infer_shapes(model))
    found = []
    layers = [
        node
        for node in view.nodes
        if node.op_type not in {"QuantizeLinear", "DequantizeLinear"}
        and view.element_type(node_id(node)) == onnx.TensorProto.FLOAT
        and view.constant_root(node_id(node)) is None
    ]
    for node in layers:
        for name, check in DLA_CHECKS.items():
            reason = check(view, node)
            if reason:
                found.append(
                    DlaFinding(node=node_id(node), op_type=node.op_type, check=name, reason=reason)
                )
                break
    return tuple(found)


def _operator(view: GraphView, node: onnx.NodeProto) -> str:
    return "" if node.op_type in _LAYERS else f"{node.op_type} is none of DLA's layers"


def _axes(view: GraphView, node: onnx.NodeProto) -> str:
    shape = view.shape(node.input[0])
    if shape is None or len(shape) != 4:
        return f"{'an unknown number of' if shape is None else len(shape)} axes, and DLA takes 2-D layers, of 4"
    if any(size is None for size in shape[1:]):
        return "a size that is known only at run time"
    if shape[0] is not None and shape[0] > _BATCH:
        return f"a batch of {shape[0]}, over {_BATCH}"
    large = [size for size in shape[1:] if size is not None and size > _SIZE]
    return f"an axis of {large[0]}, over {_SIZE}" if large else ""


def _convolution(view: GraphView, node: onnx.NodeProto) -> str:
    if node.op_type != "Conv":
        return ""
    kernel, pads = _kernel(view, node), _ints(node, "pads", [0] * 4)
    return (
        _outside("kernel", kernel, 1, 32)
        or _outside("stride", _ints(node, "strides", [1, 1]), 1, 8)
        or _outside("dilation", _ints(node, "dilations", [1, 1]), 1, 32)
        or _outside("padding", pads, 0, 31)
        or (
            "padding not below the kernel"
            if kernel and any(p >= k for p, k in zip(pads, kernel * 2, strict=False))
            else ""
        )
    )


def _deconvolution(view: GraphView, node: onnx.NodeProto) -> str:
    if node.op_type != "ConvTranspose":
        return ""
    if attribute(node, "group", 1) != 1:
        return f"{attribute(node, 'group')} groups, and DLA's transposed convolution has one"
    if any(_ints(node, "pads", [0])):
        return "padding, and DLA's transposed convolution has none"
    kernel = _kernel(view, node)
    is_long = len(kernel) == 2 and min(kernel) == 1 and max(kernel) in {64, 96, 128}
    return "" if is_long else _outside("kernel", kernel, 1, 32)


def _pooling(view: GraphView, node: onnx.NodeProto) -> str:
    if node.op_type in {"GlobalAveragePool", "GlobalMaxPool"}:
        shape = view.shape(node.input[0]) or ()
        return _outside("window", [size or 1 for size in shape[2:]], 1, 8)
    if node.op_type not in {"AveragePool", "MaxPool"}:
        return ""
    return (
        _outside("window", _ints(node, "kernel_shape", []), 1, 8)
        or _outside("stride", _ints(node, "strides", [1, 1]), 1, 16)
        or _outside("padding", _ints(node, "pads", [0] * 4), 0, 7)
    )


def _elementwise(view: GraphView, node: onnx.NodeProto) -> str:
    if node.op_type not in _ELEMENTWISE or len(node.input) == 2:
        return ""
    return f"{len(node.input)} operands, and an element-wise layer has 2"


def _concat(view: GraphView, node: onnx.NodeProto) -> str:
    axis = attribute(node, "axis", 1)
    return f"axis {axis}, and DLA joins channels" if node.op_type == "Concat" and axis != 1 else ""


def _softmax(view: GraphView, node: onnx.NodeProto) -> str:
    shape = view.shape(node.input[0]) or ()
    if node.op_type != "Softmax" or not shape:
        return ""
    axis = int(attribute(node, "axis", -1)) % len(shape)  # type: ignore[call-overload]
    others = [size for index, size in enumerate(shape) if index not in (0, axis)]
    limit = _SIZE if all(size == 1 for size in others) else _SOFTMAX
    size = shape[axis] or 1
    return f"an axis of {size}, over {limit}" if size > limit else ""


def _resize(view: GraphView, node: onnx.NodeProto) -> str:
    if node.op_type != "Resize":
        return ""
    before, after = (view.shape(name) or () for name in (node.input[0], node.output[0]))
    factors = [b / a for a, b in zip(before, after, strict=False) if a and b][2:]
    mode = attribute(node, "mode", b"nearest")
    if mode == b"nearest":
        is_fit = all(f == int(f) and 1 <= f <= 32 for f in factors)
        return "" if factors and is_fit else "nearest scales must be integers from 1 to 32"
    is_fit = mode == b"linear" and bool(factors) and all(1 <= f <= 4 for f in factors)
    return "" if is_fit else "only linear scales from 1 to 4 and nearest ones"


def _slice(view: GraphView, node: onnx.NodeProto) -> str:
    if node.op_type != "Slice":
        return ""
    steps = view.constant(node.input[4]) if len(node.input) > 4 and node.input[4] else None
    axes = view.constant(node.input[3]) if len(node.input) > 3 and node.input[3] else None
    if steps is not None and np.any(steps != 1):
        return f"steps {steps.tolist()}, and DLA slices by 1"
    return "a slice of the batch" if axes is None or 0 in axes.tolist() else ""


def _prelu(view: GraphView, node: onnx.NodeProto) -> str:
    is_open = node.op_type == "PRelu" and view.constant_root(node.input[1]) is None
    return "slopes that are computed" if is_open else ""


def _lrn(view: GraphView, node: onnx.NodeProto) -> str:
    size = attribute(node, "size")
    return f"a window of {size}" if node.op_type == "LRN" and size not in {3, 5, 7, 9} else ""


def _kernel(view: GraphView, node: onnx.NodeProto) -> list[int]:
    shape = view.shape(node.input[1]) or ()
    return [size or 1 for size in shape[2:]]


def _ints(node: onnx.NodeProto, name: str, default: list[int]) -> list[int]:
    return [int(value) for value in attribute(node, name, default)]  # type: ignore[attr-defined]


def _outside(what: str, sizes: list[int], low: int, high: int) -> str:
    wrong = [size for size in sizes if not low <= size <= high]
    return f"{what} {wrong[0]}, not in {low}..{high}" if wrong else ""


DLA_CHECKS: dict[str, Callable[[GraphView, onnx.NodeProto], str]] = {
    "operator": _operator,
    "axes": _axes,
    "convolution": _convolution,
    "transposed convolution": _deconvolution,
    "pooling": _pooling,
    "element-wise": _elementwise,
    "concat": _concat,
    "softmax": _softmax,
    "resize": _resize,
    "slice": _slice,
    "prelu": _prelu,
    "lrn": _lrn,
}
