"""Which tensor of one graph is which of another: by name, and through the Q/DQ pairs that a quantizer put between.

Entry: `match_tensors`. A quantized tensor has two forms in B: before its own rounding (under its name in the float
graph), and dequantized, which is what the next node reads. Weights and other constants are left out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import onnx
from onnx import TensorProto

from edgeq.graph.infer_ranks import infer_shapes
from edgeq.graph.view import GraphView, node_id

# Element types that a difference can be taken of; the width in bytes.
_BYTES: dict[int, int] = {
    TensorProto.FLOAT: 4,
    TensorProto.FLOAT16: 2,
    TensorProto.DOUBLE: 8,
    TensorProto.INT8: 1,
    TensorProto.UINT8: 1,
    TensorProto.INT32: 4,
    TensorProto.INT64: 8,
    TensorProto.BOOL: 1,
}
_UNKNOWN_BYTES = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorPair:
    """A tensor of graph A and the tensor of graph B that stands for it.

    Attributes:
        a, b: their names.
        node, op_type: of the node of B that makes it; of a dequantized tensor, that which makes what is quantized.
        inputs: the tensors that this node reads in B.
        unrounded: of a dequantized tensor, its form before the rounding; "" for any other.
        is_read: whether anything but its own quantizer reads it. Else it may have another meaning than A's tensor: a
            quantizer whose range begins at zero does the work of a Relu, and some tools then drop the Relu.
        sample_bytes: both together, of one sample (of one batch where the file fixes it); an unknown size counts as 1.
    """

    a: str
    b: str
    node: str
    op_type: str
    inputs: tuple[str, ...]
    unrounded: str
    is_read: bool
    sample_bytes: int


def match_tensors(
    a: onnx.ModelProto, b: onnx.ModelProto, inputs: Mapping[str, str]
) -> tuple[TensorPair, ...]:
    """Return the pairs in the order in which B computes them.

    Args:
        a: the reference.
        b: the file that is judged.
        inputs: names of A's graph inputs, by those of B.
    """
    first, second = (GraphView(_infer(model)) for model in (a, b))
    computed = _computed(first)
    pairs = []
    for node in second.nodes:
        read = _read(second, node)
        if node.op_type == "QuantizeLinear" or not read:
            continue  # codes, and what no input of the graph reaches
        for name in node.output:
            meant = (name, *read) if node.op_type == "DequantizeLinear" else (name,)
            known = (inputs.get(item, item) for item in meant)
            source = next((item for item in known if item in computed), None)
            if name and source is not None and _is_comparable(second, name):
                pairs.append(_pair(first, second, node, source, name))
    return tuple(pairs)


def _infer(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return `model` with inferred shapes; as it is where ONNX refuses what ONNX Runtime runs."""
    try:
        return infer_shapes(model)
    except onnx.shape_inference.InferenceError:
        return model


def _computed(view: GraphView) -> set[str]:
    """Return the tensors of A that a difference can be taken to: inputs, and results that are no constants."""
    kept = {name for node in view.nodes if _read(view, node) for name in node.output if name}
    return {name for name in (*view.inputs, *kept) if _is_comparable(view, name)}


def _read(view: GraphView, node: onnx.NodeProto) -> tuple[str, ...]:
    """Return the tensors that `node` reads and that are no constants.

    A DequantizeLinear is taken to read what was quantized, and what a clip to its grid had read before that.
    """
    names = tuple(item for item in node.input if item and view.constant_root(item) is None)
    if node.op_type != "DequantizeLinear" or not names:
        return names
    quantizer = view.producer(names[0])
    if quantizer is None or quantizer.op_type != "QuantizeLinear":
        return names
    source = str(quantizer.input[0])
    if view.constant_root(source) is not None:
        return ()
    clip = view.producer(source)
    return (
        (source, str(clip.input[0])) if clip is not None and clip.op_type == "Clip" else (source,)
    )


def _is_comparable(view: GraphView, name: str) -> bool:
    kind = view.element_type(name)
    node = view.producer(name)
    is_tensor = node is None or not node.op_type.startswith(("Sequence", "SplitToSeq", "Optional"))
    return is_tensor and (kind in _BYTES or kind == 0)


def _pair(a: GraphView, b: GraphView, node: onnx.NodeProto, source: str, name: str) -> TensorPair:
    unrounded = _read(b, node)[-1] if node.op_type == "DequantizeLinear" else ""
    maker = (b.producer(unrounded) if unrounded else None) or node
    return TensorPair(
        a=source,
        b=name,
        node=maker.name or node_id(maker),
        op_type=maker.op_type,
        inputs=_read(b, maker),
        unrounded=unrounded,
        is_read=_is_read(b, name),
        sample_bytes=_size(a, source) + _size(b, name),
    )


def _is_read(view: GraphView, name: str) -> bool:
    """Return whether more than a quantizer, directly or through the clip to its grid, reads a tensor."""
    readers = [node for node, _ in view.consumers(name)]
    clips = [item for item in readers if item.op_type == "Clip"]
    behind = [node for clip in clips for node, _ in view.consumers(clip.output[0])]
    others = [item for item in readers if item.op_type not in {"QuantizeLinear", "Clip"}]
    others += [item for item in behind if item.op_type != "QuantizeLinear"]
    return bool(others) or not readers or name in view.outputs


def _size(view: GraphView, name: str) -> int:
    count = math.prod(size or 1 for size in view.shape(name) or ())
    return count * _BYTES.get(view.element_type(name), _UNKNOWN_BYTES)
