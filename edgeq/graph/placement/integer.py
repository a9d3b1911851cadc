"""Placement for ONNX Runtime's CPU kernels: what is computed on integers reads and gives integers.

Its graph optimiser turns Q/DQ around an operator into an integer operator (QLinearConv, QLinearAdd, ...) only if every
operand is dequantized and the result is quantized; a Relu, or a Clip at 0, between the two is dropped if the codes
saturate where it does. So, unlike for TensorRT, both operands of a residual Add are quantized, and so is every result.

Source: found by reading back graphs that ONNX Runtime 1.31.1 had optimised (deployment/tensorrt.md 7.2).
"""

from __future__ import annotations

import numpy as np
import onnx

from edgeq.core.plan import DerivedRange, Role
from edgeq.core.specs import TargetCard
from edgeq.graph.placement.flow import (
    FUSED_CLAMPS,
    WEIGHTED,
    clip_floor,
    moved_input,
    quantized_reads,
)
from edgeq.graph.placement.rule import PlacementView, Wish, label, placement_rule, site_of
from edgeq.graph.placement.weighted import weighted_wishes, why_float
from edgeq.graph.view import attribute, node_id

ONNX_RUNTIME = "onnxruntime"

# They have integer kernels beside those with weights; the first two need one operand that is an integer already.
_PAIRS = frozenset({"Add", "Mul"})
_CHAIN = _PAIRS | {"AveragePool", "Concat", "GlobalAveragePool", "LeakyRelu", "Sigmoid"}

# Their integer kernels also give floats, so the result need not be quantized.
_FLOAT_RESULT = frozenset({"Gemm", "MatMul"})


class IntegerView(PlacementView):
    """A `PlacementView` that knows which nodes ONNX Runtime will compute on integers.

    Attributes:
        integer: the nodes, by id.
        made: tensors that come from them as codes, directly, through a clamp or through data movement; every reader
            has to read them quantized.
        fixed: tensors that nodes compute from constants alone, which stay float as constants do.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        super().__init__(model)
        self.integer: set[str] = set()
        self.made: set[str] = set()
        self.fixed: set[str] = set()
        for node in self.nodes:
            if node.input and all(not name or self.is_constant(name) for name in node.input):
                self.fixed.update(node.output)
                continue
            result = result_of(self, node)
            if self._computes_on_integers(node, result):
                self.integer.add(node_id(node))
                if node.op_type not in _FLOAT_RESULT:
                    self.made.add(result)
            elif moved_input(self, node) in self.made:
                self.made.update(name for name in node.output if name not in self.outputs)

    def is_constant(self, tensor: str) -> bool:
        """Return true for a stored tensor, and for one that nodes compute from stored ones alone."""
        return tensor in self.fixed or self.constant_root(tensor) is not None

    def _computes_on_integers(self, node: onnx.NodeProto, result: str) -> bool:
        if node.op_type in _FLOAT_RESULT:
            return why_not_integer(self, node) is None
        if result in self.outputs or not self.is_float(node.output[0]):
            return False
        if node.op_type == "Conv":
            return why_not_integer(self, node) is None
        if node.op_type not in _CHAIN or any(map(self.is_constant, node.input)):
            return False
        known = [name in self.made for name in node.input]
        return any(known) if node.op_type in _PAIRS else all(known)


def result_of(view: PlacementView, node: onnx.NodeProto) -> str:
    """Return the tensor that the integer form of `node` gives: behind the clamp at 0 that reads it alone, if any."""
    tensor = str(node.output[0])
    readers = view.consumers(tensor)
    if len(readers) == 1 and tensor not in view.outputs and node.op_type not in FUSED_CLAMPS:
        clamp = readers[0][0]
        if clamp.op_type == "Relu" or (clamp.op_type == "Clip" and clip_floor(view, clamp) == 0):
            return str(clamp.output[0])
    return tensor


def why_not_integer(view: PlacementView, node: onnx.NodeProto) -> str | None:
    """Return why a weighted node has no integer kernel, or None if it has one."""
    if node.op_type == "ConvTranspose":
        return "ONNX Runtime has no integer kernel for it on the CPU"
    factors = [attribute(node, name, 1.0) for name in ("alpha", "beta")]
    if node.op_type == "Gemm" and (factors != [1.0, 1.0] or attribute(node, "transA", 0)):
        return "its factors, or its transposed input, have no integer kernel"
    return why_float(view, node)


@placement_rule("integer kernel", *sorted(WEIGHTED), runtime=ONNX_RUNTIME)
def quantize_kernel(view: PlacementView, node: onnx.NodeProto, card: TargetCard) -> list[Wish]:
    """Quantize input, weight and bias of a node that becomes QLinearConv, QGemm or an integer MatMul."""
    assert isinstance(view, IntegerView)
    if node_id(node) in view.integer:
        return weighted_wishes(view, node, "integer kernel", bias=_bias_wish)
    why = why_not_integer(view, node) or "its result leaves the network in float"
    return [
        wish
        for index, name in enumerate(node.input)
        for wish in _wishes(view, node, index, f"{label(node)} stays float: {why}")
        if not view.is_constant(name)
    ]


@placement_rule("integer chain", runtime=ONNX_RUNTIME)
def quantize_chain(view: PlacementView, node: onnx.NodeProto, card: TargetCard) -> list[Wish]:
    """Quantize what integer operators exchange.

    1. Operands of an operator that has an integer kernel, between integer kernels: Add, Mul, Concat, pools, Sigmoid.
       All parts of a Concat and its result have one scale, so that codes are copied.
    2. Any other reader of what an integer kernel gives, so that the kernel's result is quantized for all.
    3. Data movement before a quantized read: its output has the scale of its input, so that it moves codes.
    4. Everything else stays float, and so does a tensor between a kernel and the clamp that it absorbs.
    """
    assert isinstance(view, IntegerView)
    if node.op_type in WEIGHTED:
        return []
    wishes = []
    for index, name in enumerate(node.input):
        if name and not view.is_constant(name) and view.is_float(name):
            wishes += _wishes(view, node, index, f"{label(node)} is computed in float")
    return wishes


def _wishes(view: IntegerView, node: onnx.NodeProto, index: int, otherwise: str) -> list[Wish]:
    """Return the wish on one activation that `node` reads; `otherwise` is the reason of one that stays float."""
    tensor = node.input[index]
    shares: tuple[str, ...] = ()
    quantize, reason = True, f"{label(node)} reads what an integer kernel gives"
    if moved_input(view, node) == tensor:
        targets = [read for name in node.output for read in quantized_reads(view, name)]
        shares = tuple(node.output)
        quantize = tensor in view.made or bool(targets)
        reason = f"{label(node)} moves codes, so its input and output have one scale"
    elif node_id(node) in view.integer:
        reason = f"operand of {label(node)}, which is computed on integers"
        if node.op_type == "Concat":
            shares = (*node.input, node.output[0])
    elif tensor not in view.made:
        quantize, reason = False, otherwise
    if not quantize and _is_absorbed(view, node, tensor):
        reason = f"{label(node)} becomes part of the integer kernel in front of it"
    return [
        Wish(
            tensor=tensor,
            site=site_of(node, index),
            quantize=quantize,
            rule="integer chain",
            reason=reason,
            shares=shares if quantize else (),
        )
    ]


def _is_absorbed(view: IntegerView, node: onnx.NodeProto, tensor: str) -> bool:
    maker = view.producer(tensor)
    return maker is not None and node_id(maker) in view.integer and node.output[0] in view.made


def _bias_wish(view: PlacementView, node: onnx.NodeProto) -> list[Wish]:
    """Return the wish on the bias: INT32 in the unit of the accumulator where one node alone reads it."""
    root = view.constant_root(node.input[2]) if len(node.input) > 2 and node.input[2] else None
    weight = view.constant_root(node.input[1])
    if root is None or weight is None:
        return []
    values = view.constant(root)
    is_alone = values is not None and values.ndim == 1 and values.dtype == np.float32
    is_alone = is_alone and len(view.consumers(root)) == len(view.consumers(weight)) == 1
    return [
        Wish(
            tensor=root,
            site=site_of(node, 2),
            quantize=False,
            rule="bias",
            reason=f"bias of {label(node)}: "
            + ("int32, in the unit of the accumulator" if is_alone else "read by other nodes too"),
            role=Role.WEIGHT,
            derived=DerivedRange(activation=node.input[0], weight=weight) if is_alone else None,
        )
    ]
