"""The prediction itself: kernels, then what stands between them, then the conversions that are left over."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import onnx

from edgeq.core.errors import ModelError
from edgeq.core.serial import Spec
from edgeq.core.specs import TargetCard
from edgeq.graph.infer_ranks import infer_shapes
from edgeq.graph.lint.check import DQ, Q
from edgeq.graph.placement.flow import FUSED_CLAMPS, MOVES, WEIGHTED, moved_from, moved_input
from edgeq.graph.regions.kernels import ACTIVATIONS, RegionView, grow, q_follows, readers_of
from edgeq.graph.regions.words import describe_float, describe_kernel, name_float, name_format
from edgeq.graph.storage import type_name
from edgeq.graph.view import node_id

_MOVEMENT = MOVES - {"MaxPool"} | {"Concat", "Expand", "Gather", "Tile"}
_POOLS = frozenset({"AveragePool", "GlobalAveragePool", "GlobalMaxPool", "MaxPool", "ReduceMean"})
# Without weights; they run in INT8 only if INT8 comes in and goes out.
_QUANTIZABLE = _POOLS - {"MaxPool"} | {"Add", "Max", "Min", "Mul", "Resize", "Sub"}
_POINTWISE = (
    ACTIVATIONS
    | FUSED_CLAMPS
    | {"Abs", "Add", "And", "BatchNormalization", "Ceil", "Cos", "Div", "Equal", "Erf", "Exp"}
    | {"Floor", "Greater", "Less", "Log", "Max", "Min", "Mul", "Neg", "Not", "Or", "Pow"}
    | {"Reciprocal", "Round", "Sign", "Sin", "Sqrt", "Sub", "Where"}
)
_UNKNOWN = frozenset({int(onnx.TensorProto.INT16), int(onnx.TensorProto.UINT16)})


class Kind(enum.Enum):
    """What a region is."""

    KERNEL = "kernel"  # a convolution or product with what fuses to it
    POOL = "pool"
    POINTWISE = "pointwise"  # a group of element by element operators
    MOVEMENT = "movement"  # copies and views
    CONVERSION = "conversion"  # a Q, DQ or Cast that fuses with nothing: a kernel of its own
    OTHER = "other"


@dataclass(frozen=True, slots=True, kw_only=True)
class Region(Spec):
    """Nodes that TensorRT is predicted to run as one kernel.

    Attributes:
        nodes: by first output, in file order; Q and DQ nodes only where they are the region.
        kind: what it is.
        ops: the operators, joined by "+".
        precision: "int8", "int8 in, fp16 out", "fp16", "fp32", "fp16 or fp32" (weak typing: the builder times both).
        reason: in words.
    """

    nodes: tuple[str, ...]
    kind: Kind
    ops: str
    precision: str
    reason: str


def predict_regions(model: onnx.ModelProto, card: TargetCard) -> tuple[Region, ...]:
    """Return the predicted regions of `model` for the target `card`, in file order; none for other runtimes.

    Every node that works on values while the network runs is in exactly one region, Q and DQ that fuse in none.

    Args:
        model: with or without Q/DQ; not changed.
        card: a target with INT8, if the model has Q/DQ.

    Raises:
        ModelError: if it has codes of 16 bits, which TensorRT does not know.
    """
    if card.runtime != "tensorrt":
        return ()
    view = RegionView(infer_shapes(model), model)
    _require_known(view)
    predictor = _Predictor(view, card)
    predictor.add_kernels()
    predictor.add_rest()
    predictor.add_conversions()
    return tuple(sorted(predictor.regions, key=lambda region: view.order[region.nodes[0]]))


def _require_known(view: RegionView) -> None:
    for node in view.each(Q, DQ):
        kind = view.element_type(node.output[0] if node.op_type == Q else node.input[0])
        if kind in _UNKNOWN:
            raise ModelError(
                f"{node.op_type} '{node_id(node)}' has {type_name(kind)} codes",
                why="TensorRT has no such codes and does not take the file, so there is no kernel to predict",
                mend="quantize to 8 bits, for instance with `edgeq build` on the float model",
                node=node_id(node),
            )


class _Predictor:
    """Collects regions; every node is taken once."""

    def __init__(self, view: RegionView, card: TargetCard) -> None:
        self.regions: list[Region] = []
        self._view = view
        self._card = card
        self._taken: set[str] = set()
        self._int8: set[str] = set()  # nodes that take INT8
        self._stored: set[str] = set()  # tensors that their region stores in INT8
        self._groups: list[list[onnx.NodeProto]] = []  # of pointwise nodes

    def add_kernels(self) -> None:
        """Add the convolutions and matrix products with what fuses to them."""
        for node in self._live(WEIGHTED):
            pairs = [self._view.dequantizer(name) for name in node.input[:2]]
            formats = [
                name_format(self._view, pair) if pair is not None else "float" for pair in pairs
            ]
            is_int8 = "float" not in formats and "int4" not in formats
            nodes = grow(self._view, node, is_int8=is_int8)
            tensor = nodes[-1].output[0]
            precision = name_float(self._view, self._card, tensor)
            if is_int8:
                goes_on = q_follows(self._view, tensor)
                precision = formats[0] if goes_on else f"{formats[0]} in, {precision} out"
                self._keep_int8(nodes, stored=goes_on)
            elif formats == ["float", "int4"]:
                precision = f"{precision} with int4 weights"
            reason = describe_kernel(self._view, self._card, node, formats, precision)
            self._add(Kind.KERNEL, nodes, precision, reason)

    def add_rest(self) -> None:
        """Add what has no weights."""
        for node in self._live():
            if node_id(node) in self._taken or node.op_type in {Q, DQ}:
                continue
            if node.op_type in _MOVEMENT or node.op_type == "MaxPool":
                self._add_movement(node)
            elif node.op_type == "Cast":
                text = "a change of type is a copy of the tensor, unless it fuses with a neighbour"
                self._add(Kind.CONVERSION, [node], self._float(node), text)
            elif not self._add_quantized(node):
                self._add_float(node)
        for group in self._groups:
            text = "works element by element on float values"
            if len(group) > 1:
                text = "neighbours that work element by element become one kernel"
            self._add(Kind.POINTWISE, group, self._float(group[-1]), text)

    def add_conversions(self) -> None:
        """Add every Q and DQ that no region takes in."""
        seen = set()
        for node in self._live((Q, DQ)):
            tensor = node.input[0]
            is_q = node.op_type == Q
            if (self._is_stored(tensor) or self._cancels(node)) if is_q else self._is_read(node):
                continue
            root = [tensor, *moved_from(self._view, tensor)][-1]
            scale = self._view.operand(node, 1)
            key = (node.op_type, root, None if scale is None else np.asarray(scale).tobytes())
            if key in seen:
                continue
            seen.add(key)
            held = name_format(self._view, node)
            floats = name_float(self._view, self._card, root if is_q else node.output[0])
            where = f"{floats} to {held}" if is_q else f"{held} to {floats}"
            self._add(Kind.CONVERSION, [node], where, self._why_converted(node))

    def _live(self, ops: Iterable[str] | None = None) -> Iterator[onnx.NodeProto]:
        """Yield the nodes that work while the network runs, in file order."""
        return (
            node
            for node in self._view.nodes
            if (ops is None or node.op_type in ops)
            and not self._view.static.issuperset(node.output)
        )

    def _add(self, kind: Kind, nodes: list[onnx.NodeProto], precision: str, reason: str) -> None:
        ids = tuple(map(node_id, nodes))
        self._taken.update(ids)
        ops = "+".join(node.op_type for node in nodes)
        self.regions.append(
            Region(nodes=ids, kind=kind, ops=ops, precision=precision, reason=reason)
        )

    def _keep_int8(self, nodes: list[onnx.NodeProto], *, stored: bool) -> None:
        self._int8.update(map(node_id, nodes))
        if stored:
            self._stored.update(nodes[-1].output)

    def _float(self, node: onnx.NodeProto) -> str:
        return name_float(self._view, self._card, node.output[0])

    def _add_movement(self, node: onnx.NodeProto) -> None:
        """Add a node that moves data or keeps the largest values; it takes the precision of what it moves."""
        view, kind = self._view, Kind.POOL if node.op_type == "MaxPool" else Kind.MOVEMENT
        pairs = [view.dequantizer(name) for name in view.operands(node)]
        follows = all(q_follows(view, name) for name in node.output if name)
        scales = {np.asarray(view.operand(pair, 1)).tobytes() for pair in pairs if pair is not None}
        if node.op_type == "Concat":
            is_int8 = None not in pairs and len(scales) == 1 and follows
        else:
            is_int8 = None not in pairs or (follows and moved_input(view, node) is not None)
        if is_int8:
            self._keep_int8([node], stored=follows)
            held = next((name_format(view, pair) for pair in pairs if pair is not None), "int8")
            self._add(kind, [node], held, "commutes with Q and DQ, so it works on the codes")
            return
        text = "works on float values: no Q/DQ on both sides that it commutes with"
        if node.op_type == "Concat" and len(scales) > 1:
            text = "its parts have different scales, so they are rescaled"
        self._add(kind, [node], self._float(node), text)

    def _add_quantized(self, node: onnx.NodeProto) -> bool:
        """Add a node without weights if it runs in INT8; return whether it does."""
        view, nodes = self._view, [node]
        pairs = [view.dequantizer(name) for name in view.operands(node)]
        if node.op_type not in _QUANTIZABLE or None in pairs or not pairs:
            return False
        while len(readers := readers_of(view, nodes[-1].output[0])) == 1:
            if nodes[-1].output[0] in view.outputs or readers[0].op_type not in FUSED_CLAMPS:
                break
            nodes.append(readers[0])
        if not q_follows(view, nodes[-1].output[0]):
            return False
        self._keep_int8(nodes, stored=True)
        kind = Kind.POOL if node.op_type in _POOLS else Kind.POINTWISE
        text = "INT8 comes in and goes out"
        if node.op_type == "ReduceMean":
            text += "; documented for pools, inferred for ReduceMean over the same axes"
        self._add(kind, nodes, name_format(view, pairs[0]) if pairs[0] else "int8", text)
        return True

    def _add_float(self, node: onnx.NodeProto) -> None:
        if node.op_type in _POINTWISE:
            self._join_group(node)
            return
        kind = Kind.POOL if node.op_type in _POOLS else Kind.OTHER
        self._add(kind, [node], self._float(node), describe_float(self._view, node))

    def _join_group(self, node: onnx.NodeProto) -> None:
        """Put a pointwise node into the group that makes one of its operands, where that closes no circle."""
        view = self._view
        self._taken.add(node_id(node))
        makers = [maker for name in view.operands(node) if (maker := view.producer(name))]
        for group in self._groups:
            members = set(map(node_id, group))
            start = view.order[node_id(group[0])]
            others = [maker for maker in makers if node_id(maker) not in members]
            if len(others) < len(makers) and all(view.order[node_id(m)] < start for m in others):
                group.append(node)
                return
        self._groups.append([node])

    def _is_stored(self, tensor: str) -> bool:
        return not self._stored.isdisjoint((tensor, *moved_from(self._view, tensor)))

    def _cancels(self, quantizer: onnx.NodeProto) -> bool:
        """Return true for a Q that undoes a DQ of the same scale."""
        pair = self._view.dequantizer(quantizer.input[0])
        if pair is None:
            return False
        scales = [self._view.operand(node, 1) for node in (pair, quantizer)]
        return np.asarray(scales[0]).tobytes() == np.asarray(scales[1]).tobytes()

    def _is_read(self, dequantizer: onnx.NodeProto) -> bool:
        """Return true if all readers of a DQ, looked for through data movement, take the codes themselves."""
        waiting = [dequantizer.output[0]]
        while waiting:
            name = waiting.pop()
            if name in self._view.outputs:
                return False
            for node in readers_of(self._view, name):
                if node.op_type != Q and moved_input(self._view, node) == name:
                    waiting.extend(item for item in node.output if item)
                elif node_id(node) not in self._int8 and not (
                    node.op_type == Q and self._cancels(node)
                ):
                    return False
        return True

    def _why_converted(self, node: onnx.NodeProto) -> str:
        view = self._view
        if node.op_type == DQ:
            return "a reader works in float, so the codes are converted by a kernel of their own"
        tensor = [node.input[0], *moved_from(view, node.input[0])][-1]
        maker = view.producer(tensor)
        if maker is None:
            return (
                "the network's input comes in float and is quantized in front of its first reader"
            )
        if maker.op_type == DQ:
            return "the codes have another scale than their readers want"
        if node_id(maker) in self._int8:
            return f"what {maker.op_type} '{node_id(maker)}' gives is read in float, too"
        return f"{maker.op_type} '{node_id(maker)}' runs in float, so its result is converted by a kernel of its own"
