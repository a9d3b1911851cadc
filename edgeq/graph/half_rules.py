"""Which nodes of an FP32 graph must not compute in FP16, each by a named rule with its reason: `choose_full`.

Ranges are measured, not guessed: the caller gives the largest absolute value that each tensor had on the sample set.
It writes nothing; `edgeq.graph.type_half` does. Unverified on hardware: which of these nodes TensorRT's own FP16
kernels would compute well enough was not tried, so the rules take the safe side.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto

from edgeq.core.serial import Spec
from edgeq.graph.structure import names_read_inside, subgraphs
from edgeq.graph.view import GraphView, attribute, node_id

Q, DQ = "QuantizeLinear", "DequantizeLinear"

HALF_MAX = 65504.0
# Real data reach further than synthetic samples do; three bits of FP16's exponent are left for that.
HEADROOM = 8.0
# The relative error that FP16 may bring into a scale or a constant (deployment/tensorrt.md 2.6); normal numbers
# have 2^-11.
PRECISION = 1e-3
# Adding 1 to it changes nothing in FP16, so a longer sum may stand still.
LONGEST_SUM = 2048

_SQUARES = "it sums squares, which FP16 overflows above 255 and loses below 0.008"
_EXPONENTIAL = "exponentials leave the range of FP16 above 11 and below -17"
_DIVIDES = "the small numbers that it is there for fall below FP16's normal range"
_DELICATE = {
    **dict.fromkeys(
        (
            "GroupNormalization",
            "InstanceNormalization",
            "LRN",
            "LayerNormalization",
            "LpNormalization",
            "MeanVarianceNormalization",
            "RMSNormalization",
            "ReduceL2",
            "ReduceSumSquare",
        ),
        _SQUARES,
    ),
    **dict.fromkeys(("Exp", "LogSoftmax", "ReduceLogSumExp", "Softmax", "Softplus"), _EXPONENTIAL),
    **dict.fromkeys(("Log", "Reciprocal", "ReduceLogSum", "Sqrt"), _DIVIDES),
    "CumSum": "errors add up along the sum",
    "Pow": "powers leave the range of FP16 soon",
}
_SUMS = {"AveragePool", "GlobalAveragePool", "ReduceL1", "ReduceMean", "ReduceSum"}
_SQUARED_SUMS = {"ReduceMean", "ReduceSum"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept(Spec):
    """A node that stays in FP32.

    Attributes:
        node: by its first output.
        op_type: of the node.
        rule: name of the rule.
        reason: in words.
    """

    node: str
    op_type: str
    rule: str
    reason: str


class HalfView(GraphView):
    """A `GraphView` that knows which places of a node are float32, and which tensors carry data.

    Attributes:
        amax: largest absolute value of each tensor that was measured.
        moving: tensors that depend on the values of the graph's inputs.
        counted: tensors that depend on shapes.
        inside: tensors that the graphs inside a Loop, Scan or If read.
    """

    def __init__(self, model: onnx.ModelProto, amax: Mapping[str, float]) -> None:
        super().__init__(model)
        self.amax = amax
        self.moving = set(self.inputs)
        self.counted: set[str] = set()
        self.inside = names_read_inside(model.graph)
        for node in self.nodes:
            counts = node.op_type in {"Shape", "Size"}
            if not counts and self.moving.intersection(node.input):
                self.moving.update(filter(None, node.output))
            if counts or self.counted.intersection(node.input):
                self.counted.update(filter(None, node.output))

    def is_float(self, tensor: str) -> bool:
        """Return true if `tensor` is float32."""
        value = self.constant(tensor) if self.constant_root(tensor) is not None else None
        if value is not None:
            return value.dtype == np.float32
        return self.element_type(tensor) == TensorProto.FLOAT

    def float_inputs(self, node: onnx.NodeProto) -> list[int]:
        """Return the float32 inputs of `node` that may become FP16, by index.

        Not those that ONNX wants in float32, nor that of a Cast, which takes any type.
        """
        if node.op_type == "Cast":
            return []
        allowed = [_takes_half(node, index, self.opset) for index in range(len(node.input))]
        return [
            index
            for index, name in enumerate(node.input)
            if name and allowed[index] is not None and self.is_float(name)
        ]

    def float_outputs(self, node: onnx.NodeProto) -> list[str]:
        """Return the float32 outputs of `node`."""
        return [name for name in node.output if name and self.is_float(name)]

    def is_typed(self, node: onnx.NodeProto) -> bool:
        """Return true if `node` computes on float32 values, so that it could compute in FP16."""
        if self.constant_root(node_id(node)) is not None:
            return False
        return bool(self.float_inputs(node) or self.float_outputs(node))

    def partners(self, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        """Return the other nodes of the Q/DQ pair that `node` belongs to."""
        if node.op_type == Q:
            return [reader for reader, _ in self.consumers(node.output[0]) if reader.op_type == DQ]
        maker = self.producer(node.input[0]) if node.op_type == DQ else None
        return [maker] if maker is not None and maker.op_type == Q else []


def _takes_half(node: onnx.NodeProto, index: int, opset: int) -> bool | None:
    """Return whether ONNX lets an input be float16; None where it must be float32 whatever the rest is."""
    schema = onnx.defs.get_schema(node.op_type, opset, node.domain)
    place = schema.inputs[min(index, len(schema.inputs) - 1)]
    if place.type_str == "tensor(float)":
        return None
    return "tensor(float16)" in place.types


def choose_full(model: onnx.ModelProto, amax: Mapping[str, float]) -> tuple[Kept, ...]:
    """Return the nodes that stay in FP32, in file order.

    1. Nodes to which a rule of `HALF_RULES` applies.
    2. The other half of a Q/DQ pair of them, and every reader of such a DQ: no Cast stands behind a DQ.
    3. Nodes between two of them: two Casts would cost more than they save, and round.

    Args:
        model: float32, with Q/DQ nodes or without, with inferred shapes; not changed.
        amax: largest absolute value by tensor name; a tensor that is missing counts as small.
    """
    view = HalfView(model, amax)
    typed = [node for node in view.nodes if view.is_typed(node)]
    kept: dict[str, Kept] = {}
    for node in typed:
        for name, rule in HALF_RULES.items():
            reason = rule(view, node)
            if reason is not None:
                kept[node_id(node)] = _keep(node, name, reason)
                break
    while True:
        found = [item for node in typed if (item := _follow(view, node, kept)) is not None]
        if not found:
            return tuple(kept[node_id(node)] for node in typed if node_id(node) in kept)
        kept.update((item.node, item) for item in found)


def scale_error(scale: NDArray[np.generic]) -> float:
    """Return the largest relative error that FP16 brings into positive scales; infinity for one that overflows."""
    exact = np.asarray(scale, np.float64)
    with np.errstate(over="ignore"):
        rounded = exact.astype(np.float16).astype(np.float64)
    return float(np.max(np.abs(rounded - exact) / exact, initial=0.0))


def _keep(node: onnx.NodeProto, rule: str, reason: str) -> Kept:
    return Kept(node=node_id(node), op_type=node.op_type, rule=rule, reason=reason)


def _follow(view: HalfView, node: onnx.NodeProto, kept: Mapping[str, Kept]) -> Kept | None:
    """Return why `node` follows nodes that are kept already; None if it does not, or is one of them."""
    if node_id(node) in kept:
        return None
    for partner in view.partners(node):
        if node_id(partner) in kept:
            return _keep(node, "pair", f"its pair '{node_id(partner)}' stays in FP32")
    makers = [view.producer(node.input[i]) for i in view.float_inputs(node)]
    for maker in makers:
        if maker is not None and maker.op_type == DQ and node_id(maker) in kept:
            return _keep(node, "pair", f"it reads '{node_id(maker)}', which stays in FP32")
    return _bridge(view, node, kept)


def _bridge(view: HalfView, node: onnx.NodeProto, kept: Mapping[str, Kept]) -> Kept | None:
    if node.op_type in {Q, DQ}:
        return None
    if node.op_type == "Cast":
        readers = [reader for reader, _ in view.consumers(node.output[0])]
        if all(node_id(reader) in kept for reader in readers):
            return _keep(node, "between", "what reads it is FP32, or the graph's output")
        return None
    moving = [node.input[i] for i in view.float_inputs(node) if node.input[i] in view.moving]
    makers = [view.producer(name) for name in moving]
    outputs = view.float_outputs(node)
    readers = [reader for name in outputs for reader, _ in view.consumers(name)]
    is_between = (
        bool(makers and readers)
        and all(maker is not None and node_id(maker) in kept for maker in makers)
        and all(node_id(reader) in kept for reader in readers)
        and not set(outputs) & set(view.outputs)
    )
    return _keep(node, "between", "what it reads and what reads it is FP32") if is_between else None


def _fixed_by_onnx(view: HalfView, node: onnx.NodeProto) -> str | None:
    if any(subgraphs(node)):
        return f"the graph inside {node.op_type} is float32"
    for name in view.float_outputs(node):
        if name in view.inside:
            return f"a graph inside another node reads '{name}', and it is float32"
        for reader, index in view.consumers(name):
            if _takes_half(reader, index, view.opset) is None:
                return f"{reader.op_type} '{node_id(reader)}' reads its output in float32 alone"
    schema = onnx.defs.get_schema(node.op_type, view.opset, node.domain)
    places = [_takes_half(node, index, view.opset) for index in view.float_inputs(node)]
    for index, name in enumerate(node.output):
        place = schema.outputs[min(index, len(schema.outputs) - 1)]
        if name and view.is_float(name):
            places.append("tensor(float16)" in place.types)
        elif name and not any(kind.startswith("tensor(") for kind in place.types):
            return f"{node.op_type} makes a sequence of what it reads"
    names_type = any(item.name == "dtype" for item in node.attribute)
    is_source = not view.float_inputs(node) and node.op_type not in {"Cast", DQ}
    if names_type or is_source:
        return f"{node.op_type} writes out float32 by itself"
    return None if all(places) else f"{node.op_type} of opset {view.opset} has no FP16 form"


def _shapes_alone(view: HalfView, node: onnx.NodeProto) -> str | None:
    if view.moving.intersection(node.input) or not view.counted.intersection(node.input):
        return None
    return "it computes on shapes, and FP16 counts exactly only up to 2048"


def _delicate(view: HalfView, node: onnx.NodeProto) -> str | None:
    if node.op_type in _SQUARED_SUMS:
        maker = view.producer(node.input[0])
        if maker is not None and maker.op_type == "Mul" and maker.input[0] == maker.input[1]:
            return _SQUARES
    return _DELICATE.get(node.op_type)


def _long_sum(view: HalfView, node: onnx.NodeProto) -> str | None:
    count = _summed(view, node) if node.op_type in _SUMS else 0
    if count <= LONGEST_SUM:
        return None
    return f"it sums {count} values; in FP16 a sum of more than {LONGEST_SUM} may stand still"


def _summed(view: HalfView, node: onnx.NodeProto) -> int:
    """Return how many values one output sums, as far as the sizes are known."""
    if node.op_type == "AveragePool":
        return math.prod(_integers(attribute(node, "kernel_shape", [])))
    shape = view.shape(node.input[0]) or ()
    axes = list(range(2, len(shape)))
    if node.op_type != "GlobalAveragePool":
        given = view.constant(node.input[1]) if len(node.input) > 1 and node.input[1] else None
        axes = _integers(attribute(node, "axes", range(len(shape))) if given is None else given)
    return math.prod(shape[axis] or 1 for axis in axes)


def _integers(values: object) -> list[int]:
    return [int(value) for value in np.ravel(np.asarray(values))]


def _out_of_range(view: HalfView, node: onnx.NodeProto) -> str | None:
    names = [node.input[i] for i in view.float_inputs(node)] + view.float_outputs(node)
    largest = max(names, key=lambda name: view.amax.get(name, 0.0), default="")
    amax = view.amax.get(largest, 0.0)
    if amax * HEADROOM <= HALF_MAX:
        return None
    return f"'{largest}' reaches {amax:.3g} on the samples; times {HEADROOM:g} that is over FP16's {HALF_MAX:g}"


def _inexact_constant(view: HalfView, node: onnx.NodeProto) -> str | None:
    if node.op_type in {Q, DQ}:
        return None
    for index in view.float_inputs(node):
        values = view.constant(node.input[index])
        amax = 0.0 if values is None else float(np.abs(values).max(initial=0.0))
        is_open_bound = node.op_type == "Clip" and index > 0 and amax > HALF_MAX
        if amax and not is_open_bound and scale_error(np.float64(amax)) > PRECISION:
            return f"the constant '{node.input[index]}' of {amax:.3g} cannot be told in FP16"
    return None


def _inexact_scale(view: HalfView, node: onnx.NodeProto) -> str | None:
    scale = view.constant(node.input[1]) if node.op_type in {Q, DQ} else None
    if scale is None or scale_error(scale) <= PRECISION:
        return None
    return f"the smallest scale, {float(np.min(scale)):.3g}, would be {100 * scale_error(scale):.2g} % off in FP16"


HALF_RULES: dict[str, Callable[[HalfView, onnx.NodeProto], str | None]] = {
    "no form": _fixed_by_onnx,
    "shape arithmetic": _shapes_alone,
    "delicate": _delicate,
    "long sum": _long_sum,
    "range": _out_of_range,
    "constant": _inexact_constant,
    "scale": _inexact_scale,
}
