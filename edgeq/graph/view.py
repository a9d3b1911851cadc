"""Read-only questions about an ONNX graph: who makes a tensor, who reads it, is it constant, what shape has it.

`GraphView` indexes a model once; it goes stale when the model is edited. A node is named by its first output
(`node_id`), which is unique where node names need not be.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from edgeq.core.errors import ModelError


def node_id(node: onnx.NodeProto) -> str:
    """Return the name by which edgeq knows `node`: its first output that has one."""
    return next((name for name in node.output if name), node.name)


def attribute(node: onnx.NodeProto, name: str, default: object = None) -> object:
    """Return the value of an attribute as Python or TensorProto value, or `default` where it is absent."""
    for item in node.attribute:
        if item.name == name:
            return onnx.helper.get_attribute_value(item)
    return default


class GraphView:
    """Index over the main graph of `model`.

    Attributes:
        model: the model itself; not copied.
        nodes: main-graph nodes in file order (ONNX demands topological order).
        inputs: names of graph inputs that are no initializers.
        outputs: names of graph outputs.
        opset: version of the default domain.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        self.nodes: list[onnx.NodeProto] = list(model.graph.node)
        self.initializers = {item.name: item for item in model.graph.initializer}
        self.inputs = [
            item.name for item in model.graph.input if item.name not in self.initializers
        ]
        self.outputs = [item.name for item in model.graph.output]
        self.opset = next(
            (item.version for item in model.opset_import if item.domain in {"", "ai.onnx"}), 0
        )
        self._producers: dict[str, onnx.NodeProto] = {}
        self._consumers: dict[str, list[tuple[onnx.NodeProto, int]]] = {}
        for node in self.nodes:
            for name in node.output:
                self._producers[name] = node
            for index, name in enumerate(node.input):
                self._consumers.setdefault(name, []).append((node, index))
        self._types = {
            item.name: item.type
            for group in (model.graph.value_info, model.graph.input, model.graph.output)
            for item in group
        }
        self._constants: dict[str, NDArray[np.generic] | None] = {}
        self._roots: dict[str, str | None] = {}

    def producer(self, tensor: str) -> onnx.NodeProto | None:
        """Return the node that makes `tensor`, or None for an input or initializer."""
        return self._producers.get(tensor)

    def consumers(self, tensor: str) -> list[tuple[onnx.NodeProto, int]]:
        """Return (node, input index) for every place of the main graph that reads `tensor`."""
        return self._consumers.get(tensor, [])

    def constant(self, tensor: str) -> NDArray[np.generic] | None:
        """Return the value of a constant tensor (initializer, Constant node, or Identity of one), else None.

        Raises:
            ModelError: for a sparse constant, or data that cannot be read.
        """
        if tensor not in self._constants:
            self._constants[tensor] = self._find_constant(tensor)
        return self._constants[tensor]

    def constant_root(self, tensor: str) -> str | None:
        """Return the initializer or Constant output that `tensor` is, followed through Identity; None if it is none."""
        passed: list[str] = []
        name: str | None = tensor
        while name is not None and name not in self._roots:
            passed.append(name)
            name = self._origin(name)
        root = None if name is None else self._roots[name]
        self._roots.update(dict.fromkeys(passed, root))
        return root

    def _origin(self, tensor: str) -> str | None:
        """Return the tensor that `tensor` repeats through Identity, or None; a constant is entered as its own root."""
        node = self.producer(tensor)
        if tensor in self.initializers or (node is not None and node.op_type == "Constant"):
            self._roots[tensor] = tensor
            return tensor
        return node.input[0] if node is not None and node.op_type == "Identity" else None

    def shape(self, tensor: str) -> tuple[int | None, ...] | None:
        """Return the inferred shape, None for an unknown axis, or None where even the rank is unknown."""
        if tensor in self.initializers:
            return tuple(self.initializers[tensor].dims)
        kind = self._types.get(tensor)
        if (
            kind is None
            or not kind.HasField("tensor_type")
            or not kind.tensor_type.HasField("shape")
        ):
            return None
        return tuple(
            dim.dim_value if dim.HasField("dim_value") else None
            for dim in kind.tensor_type.shape.dim
        )

    def element_type(self, tensor: str) -> int:
        """Return the ONNX element type of `tensor`, or 0 where it is unknown."""
        if tensor in self.initializers:
            return int(self.initializers[tensor].data_type)
        kind = self._types.get(tensor)
        return int(kind.tensor_type.elem_type) if kind is not None else 0

    def names(self) -> set[str]:
        """Return every tensor name and node name in use, so that a new one can avoid them."""
        used = {
            name
            for node in self.nodes
            for group in (node.input, node.output, [node.name])
            for name in group
        }
        return used | set(self.initializers) | set(self.inputs) | set(self.outputs)

    def _find_constant(self, tensor: str) -> NDArray[np.generic] | None:
        root = self.constant_root(tensor)
        if root is None:
            return None
        if root in self.initializers:
            return to_array(self.initializers[root])
        node = self._producers[root]
        for item in node.attribute:
            if item.name == "value":
                return to_array(item.t)
            if item.name == "sparse_value":
                raise ModelError(
                    "a sparse constant",
                    why="edgeq reads dense constants only",
                    mend="make the constant dense before export",
                    node=node_id(node),
                )
            if item.name in {"value_float", "value_floats"}:
                return np.asarray(onnx.helper.get_attribute_value(item), np.float32)
            if item.name in {"value_int", "value_ints"}:
                return np.asarray(onnx.helper.get_attribute_value(item), np.int64)
        raise ModelError(
            "a Constant node without a numeric value",
            why="edgeq reads the attributes value, value_float(s) and value_int(s)",
            mend="export the model again without string constants",
            node=node_id(node),
        )


def to_array(tensor: onnx.TensorProto) -> NDArray[np.generic]:
    """Return the values of a TensorProto whose data are inside the model.

    Raises:
        ModelError: if the stored data do not fit the declared type and shape.
    """
    try:
        return numpy_helper.to_array(tensor)
    except (ValueError, TypeError, KeyError) as error:
        raise ModelError(
            f"tensor '{tensor.name}' cannot be read: {error}",
            why="its stored data do not fit its declared type and shape",
            mend="export the model again; the file is damaged",
        ) from error


def unique_name(wish: str, used: set[str]) -> str:
    """Return `wish`, or `wish` with the first free number behind it, and add it to `used`."""
    name, number = wish, 1
    while name in used:
        number += 1
        name = f"{wish}_{number}"
    used.add(name)
    return name


def topological(nodes: Iterable[onnx.NodeProto], known: Iterable[str]) -> bool:
    """Return true if every node reads only `known` tensors and outputs of earlier nodes."""
    seen = set(known) | {""}
    for node in nodes:
        if any(name not in seen for name in node.input):
            return False
        seen.update(node.output)
    return True
