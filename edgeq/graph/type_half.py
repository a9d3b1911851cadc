"""Turn an FP32-typed model, with Q/DQ nodes or without, into the FP16-typed one that strong typing wants: `type_half`.

It decides nothing: which nodes stay in FP32 comes from `half_rules.choose_full`. Source: deployment/tensorrt.md 2.6.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edgeq.core.errors import EdgeqBug
from edgeq.graph.fit_target import HALF_OPSET
from edgeq.graph.half_rules import DQ, HalfView, Kept, Q
from edgeq.graph.infer_ranks import infer_shapes
from edgeq.graph.passes import PassResult
from edgeq.graph.unread import remove_unread
from edgeq.graph.view import node_id, unique_name

FLOAT, HALF = int(TensorProto.FLOAT), int(TensorProto.FLOAT16)
_WORDS = {FLOAT: "float32", HALF: "float16"}


def type_half(model: onnx.ModelProto, *, kept: Sequence[Kept]) -> PassResult:
    """Return `model` with FP16 in place of float32 inside, except in the nodes `kept`; the input is not changed.

    1. Graph inputs and outputs keep name and type, with one Cast behind or before them; a Cast to the type that a
       tensor has already goes away, so a file that came in FP16 is FP16 to its borders.
    2. Constants become FP16 where an FP16 node reads them; one that FP32 nodes read, too, is there twice.
    3. A Cast stands between FP16 and FP32 nodes, one a tensor and type. Behind a DQ there is none: FP32 readers get a
       DQ of their own from the same codes, with the same scale.
    4. Codes stay byte for byte. A scale becomes the nearest FP16 number.
    5. Left alone: `kept`, integer tensors, inputs that ONNX wants in float32 (the scales of Resize), metadata.

    Raises:
        EdgeqBug: if the opset is too old for FP16 scales.
    """
    view = HalfView(infer_shapes(model), {})
    if view.opset < HALF_OPSET:
        msg = f"FP16 scales need opset {HALF_OPSET}, and the model has {view.opset}"
        raise EdgeqBug(msg)
    half = {node_id(n) for n in view.nodes if view.is_typed(n)} - {item.node for item in kept}
    if not half:
        return PassResult(model=model, changed=False)
    writer = _Writer(model, view, half)
    return PassResult(model=writer.write(), changed=True, touched=tuple(sorted(half)))


class _Writer:
    """Retypes nodes one by one, then drops Casts that do nothing.

    Attributes:
        half: nodes that compute in FP16, by id.
    """

    def __init__(self, model: onnx.ModelProto, view: HalfView, half: set[str]) -> None:
        self.half = half
        self._view = view
        self._model = onnx.ModelProto()
        self._model.CopyFrom(model)
        self._used = view.names() | {item.name for item in model.graph.value_info}
        self._nodes: list[onnx.NodeProto] = []
        self._made: dict[tuple[str, int], str] = {}  # the tensor of that name in that type
        self._renamed: dict[str, str] = {}  # FP16 outputs of the graph, before their Cast
        self._old: set[str] = set()

    def write(self) -> onnx.ModelProto:
        """Return the retyped model."""
        graph = self._model.graph
        for node in list(graph.node):
            copy = onnx.NodeProto()
            copy.CopyFrom(node)
            self._retype(copy)
        names = self._take_idle_casts()
        del graph.node[:]
        graph.node.extend(self._nodes)
        gone = set(remove_unread(graph, self._old))
        # What a lost constant was called, its FP16 form may be called.
        names |= {
            new: root for (root, kind), new in self._made.items() if root in gone and kind == HALF
        }
        _rename(graph, names)
        for index in reversed(range(len(graph.value_info))):
            item = graph.value_info[index]
            if item.name in names or item.name in gone:
                del graph.value_info[index]
            elif item.type.tensor_type.elem_type == FLOAT and self._type_of(item.name) == HALF:
                item.type.tensor_type.elem_type = HALF
        return self._model

    def _take_idle_casts(self) -> dict[str, str]:
        """Remove the Casts that now give the type that they read; return which tensor is to be called what.

        They are those at the border of a file that came in FP16.
        """
        names: dict[str, str] = {}
        left = []
        for node in self._nodes:
            if not self._is_idle(node) or node.input[0] in names:
                left.append(node)
                continue
            source, target = node.input[0], node.output[0]
            if target not in self._view.outputs:
                names[target] = source
            elif self._view.producer(source) is not None and source not in self._view.outputs:
                names[source] = target
            else:
                left.append(node)
        self._nodes = left
        return names

    def _is_idle(self, node: onnx.NodeProto) -> bool:
        if node.op_type != "Cast" or self._view.producer(node.output[0]) is None:
            return False
        (to,) = (item.i for item in node.attribute if item.name == "to")
        return to == HALF and self._type_of(node.input[0]) == HALF

    def _retype(self, node: onnx.NodeProto) -> None:
        view = self._view
        name = node_id(node)
        wanted = HALF if self._is_half(node) else FLOAT
        if node.op_type == DQ and view.is_typed(node):
            self._nodes.append(self._dequantizer(node, wanted, list(node.output)))
            self._hand_out(node)
            return
        for index in view.float_inputs(node) if view.is_typed(node) else []:
            node.input[index] = self._as(node.input[index], wanted)
        if node.op_type == "Cast" and wanted == HALF:
            for item in node.attribute:
                item.i = HALF if item.name == "to" and item.i == FLOAT else item.i
        self._nodes.append(node)
        if name in self.half:
            self._hand_out(node)

    def _is_half(self, node: onnx.NodeProto) -> bool:
        """Return true if `node` computes in FP16; a DQ follows its readers if they all want FP32."""
        if node_id(node) not in self.half:
            return False
        if node.op_type != DQ:
            return True
        readers = self._view.consumers(node.output[0])
        return any(node_id(reader) in self.half for reader, _ in readers)

    def _hand_out(self, node: onnx.NodeProto) -> None:
        """Give the graph its outputs in their own type where `node` now makes them in FP16."""
        for index, name in enumerate(node.output):
            if name in self._view.outputs and self._view.is_float(name) and self._is_half(node):
                inner = unique_name(f"{name}/float16", self._used)
                self._nodes[-1].output[index] = inner
                self._renamed[name] = inner
                self._made[name, HALF] = inner
                title = unique_name(f"{name}/cast", self._used)
                self._nodes.append(helper.make_node("Cast", [inner], [name], name=title, to=FLOAT))

    def _type_of(self, tensor: str) -> int:
        """Return the element type that `tensor` has in the new graph."""
        node = self._view.producer(tensor)
        is_made = node is not None and self._view.is_float(tensor) and tensor not in self._renamed
        if is_made and node is not None and self._is_half(node):
            return HALF
        return self._view.element_type(tensor)

    def _as(self, tensor: str, wanted: int) -> str:
        """Return the name under which `tensor` is read in the type `wanted`."""
        if self._view.constant_root(tensor) is not None:
            return self._constant(tensor, wanted)
        if self._type_of(tensor) == wanted:
            return tensor
        if (tensor, wanted) not in self._made:
            self._made[tensor, wanted] = self._convert(tensor, wanted)
        return self._made[tensor, wanted]

    def _convert(self, tensor: str, wanted: int) -> str:
        maker = self._view.producer(tensor)
        name = unique_name(f"{tensor}/{_WORDS[wanted]}", self._used)
        if maker is not None and maker.op_type == DQ:
            self._nodes.append(self._dequantizer(maker, wanted, [name]))
        else:
            source = self._renamed.get(tensor, tensor)
            self._nodes.append(helper.make_node("Cast", [source], [name], name=name, to=wanted))
        return name

    def _dequantizer(
        self, node: onnx.NodeProto, wanted: int, outputs: Sequence[str]
    ) -> onnx.NodeProto:
        """Return a DQ of the codes of `node` in the type `wanted`, with the scale that its Q has."""
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        copy.output[:] = outputs
        copy.name = node.name if list(node.output) == list(outputs) else outputs[0]
        quantizers = [item for item in self._view.partners(node) if item.op_type == Q]
        is_rounded = any(node_id(item) in self.half for item in quantizers)
        copy.input[1] = self._constant(node.input[1], wanted, is_rounded=is_rounded)
        return copy

    def _constant(self, tensor: str, wanted: int, *, is_rounded: bool = False) -> str:
        """Return the name of an initializer with the values of `tensor` in the type `wanted`."""
        if wanted == FLOAT and not is_rounded:
            return tensor
        root = self._view.constant_root(tensor)
        assert root is not None
        key = (root, wanted)
        if key not in self._made:
            values = self._view.constant(tensor)
            assert values is not None
            self._made[key] = unique_name(f"{root}/{_WORDS[wanted]}", self._used)
            stored = numpy_helper.from_array(_rounded(values, wanted), self._made[key])
            self._model.graph.initializer.append(stored)
        self._old |= {tensor, root}
        return self._made[key]


def _rounded(values: NDArray[np.generic], wanted: int) -> NDArray[np.generic]:
    """Return `values` rounded to FP16, in FP16 or in float32; open bounds of a Clip become infinite."""
    with np.errstate(over="ignore"):
        half = values.astype(np.float16)
    return half if wanted == HALF else half.astype(np.float32)


def _rename(graph: onnx.GraphProto, names: Mapping[str, str]) -> None:
    """Call tensors by their new names wherever they are made or read."""
    for item in graph.initializer:
        item.name = names.get(item.name, item.name)
    for node in graph.node:
        for places in (node.input, node.output):
            for index, name in enumerate(places):
                places[index] = names.get(name, name)
