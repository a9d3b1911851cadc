"""ONNX to `Teacher`: one fx node an ONNX node.

What static shapes decide is folded by the onnx package (`edgeq.graph.fold_shapes`); other nodes whose inputs are all
constant are computed once, here. Both leave no fx node. Nothing is fused, reordered or
renamed; `edgeq.teacher.proof` shows that the result computes what ONNX Runtime computes.
"""

from __future__ import annotations

import operator
import re
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor, fx, nn

from edgeq.core.collector import collector_paused
from edgeq.core.errors import ModelError
from edgeq.graph.fold_shapes import fold_shapes, infer_for_any_batch, shape_nodes
from edgeq.graph.view import GraphView, attribute, node_id, unique_name
from edgeq.teacher.converters import CONVERSION_FAULTS, CONVERTERS, Converter, accepts
from edgeq.teacher.support import plain, require_supported
from edgeq.teacher.teacher import Teacher

# Names that a GraphModule has already.
_RESERVED = frozenset(dir(fx.GraphModule(nn.Module(), fx.Graph())))


@collector_paused()
def import_teacher(model: onnx.ModelProto) -> Teacher:
    """Return `model` as a torch module.

    Raises:
        ModelError: lists every node that cannot be imported; or names the node or tensor whose constants are wrong.
    """
    view = GraphView(model)
    require_supported(view)
    return _Builder(view).build()


class _Builder:
    """Builds the fx graph in file order, which ONNX demands to be topological.

    A constant is in `_values` once it was asked for, and in `_nodes` once a node reads it as a tensor; an activation is
    in `_nodes` alone.
    """

    def __init__(self, view: GraphView) -> None:
        self._view = view
        self._graph = fx.Graph()
        self._root = nn.Module()
        self._taken = set(_RESERVED)
        self._nodes: dict[str, fx.Node] = {}
        self._values: dict[str, Tensor] = {}
        self._binding: dict[str, str] = {}
        has_shapes = any(node.op_type in {"Shape", "Size"} for node in view.nodes)
        self._folded = fold_shapes(infer_for_any_batch(view)) if has_shapes else {}

    def build(self) -> Teacher:
        """Return the teacher."""
        for name in self._view.inputs:
            self._nodes[name] = self._graph.create_node("placeholder", _identifier(name), name=name)
        for node in self._view.nodes:
            if node.op_type != "Constant" and not self._folded.keys() >= set(node.output):
                self._add(node)
        self._graph.output(tuple(self._node(name) for name in self._view.outputs))
        if self._folded:
            self._drop_unread_shapes()
        module = fx.GraphModule(self._root, self._graph, class_name="Teacher")
        return Teacher(
            module=module.eval().requires_grad_(False),
            binding=self._binding,
            fx_node_of={name: node.name for name, node in self._nodes.items()},
            inputs=tuple(self._view.inputs),
            outputs=tuple(self._view.outputs),
        )

    def _drop_unread_shapes(self) -> None:
        """Remove the shape arithmetic that folding left without a reader."""
        arithmetic = {name for node in shape_nodes(self._view) for name in node.output}
        for node in reversed(self._graph.nodes):
            name = node.meta.get("tensor")
            if name in arithmetic and not node.users:
                self._nodes.pop(name, None)
                self._graph.erase_node(node)

    def _add(self, node: onnx.NodeProto) -> None:
        entry = CONVERTERS.get(node.op_type)
        keywords = self._keywords(node, entry)
        values = [self._constant(name) if name else None for name in node.input]
        if all(
            value is not None or not name for name, value in zip(node.input, values, strict=True)
        ):
            self._fold(node, entry, keywords, values)
            return
        args = [
            self._argument(name, value, entry.hint(index))
            for index, (name, value) in enumerate(zip(node.input, values, strict=True))
        ]
        call = self._graph.create_node(
            "call_function", entry.function, tuple(args), keywords, name=node_id(node)
        )
        call.meta.update(
            onnx_node=node_id(node),
            onnx_op=node.op_type,
            onnx_name=node.name,
            tensor=node_id(node),
        )
        if not entry.returns_tuple:
            self._nodes[node_id(node)] = call
            return
        for index, name in enumerate(node.output):
            if name:
                part = self._graph.create_node(
                    "call_function", operator.getitem, (call, index), name=name
                )
                part.meta["tensor"] = name
                self._nodes[name] = part

    def _keywords(self, node: onnx.NodeProto, entry: Converter) -> dict[str, Any]:
        keywords = {item.name: plain(attribute(node, item.name)) for item in node.attribute}
        if "opset" in entry.keywords:
            keywords["opset"] = self._view.opset
        if "num_outputs" in entry.keywords:
            keywords.setdefault("num_outputs", len(node.output))
        return keywords

    def _fold(
        self,
        node: onnx.NodeProto,
        entry: Converter,
        keywords: dict[str, Any],
        values: list[Tensor | None],
    ) -> None:
        if self._view.constant_root(node.output[0]) is not None:
            return  # an Identity; `_constant` and `_node` follow it, so that a weight stays a parameter
        try:
            with torch.no_grad():
                result = entry.function(*values, **keywords)
        except CONVERSION_FAULTS as error:
            raise ModelError(
                f"{node.op_type} cannot be computed from its constants: {error}",
                why="a node whose inputs are all constant is computed at import",
                mend="check the model with onnx.checker, or export it again",
                node=node_id(node),
            ) from error
        parts = result if entry.returns_tuple else (result,)
        self._values.update(zip(node.output, parts, strict=False))

    def _constant(self, name: str) -> Tensor | None:
        """Return the value of a constant tensor, or None for an activation."""
        name = self._view.constant_root(name) or name
        if name not in self._values:
            array = self._folded.get(name)
            array = self._view.constant(name) if array is None else array
            if array is None:
                return None
            self._values[name] = _to_torch(array, name)
        return self._values[name]

    def _argument(self, name: str, value: Tensor | None, hint: Any) -> Any:
        """Return what stands in the call for one input."""
        if not name:
            return None
        if value is not None and any(
            accepts(hint, kind) for kind in (tuple[int, ...], tuple[float, ...])
        ):
            return tuple(value.reshape(-1).tolist())
        if value is not None and accepts(hint, float) and value.numel() == 1:
            return value.item()
        return self._node(name)

    def _node(self, name: str) -> fx.Node:
        """Return the fx node of a tensor; a constant gets its attribute and its node at the first use."""
        if name in self._nodes:
            return self._nodes[name]
        root = self._view.constant_root(name)
        if root is not None and root != name:
            self._nodes[name] = self._node(root)
            return self._nodes[name]
        value = self._constant(name)
        if value is None:
            raise ModelError(
                f"tensor '{name}' is read before any node makes it",
                why="ONNX demands nodes in topological order",
                mend="check the model with onnx.checker, or export it again",
            )
        key = unique_name(_identifier(name), self._taken)
        if root is not None and value.is_floating_point():
            self._root.register_parameter(key, nn.Parameter(value))
        else:
            self._root.register_buffer(key, value)
        self._binding[key] = name
        self._nodes[name] = self._graph.create_node("get_attr", key, name=name)
        return self._nodes[name]


def _identifier(name: str) -> str:
    """Return `name` as a Python identifier."""
    word = re.sub(r"\W", "_", name, flags=re.ASCII)
    return f"_{word}" if not word or word[0].isdigit() else word


def _to_torch(array: Any, name: str) -> Tensor:
    try:
        return torch.from_numpy(np.array(array))
    except TypeError as error:
        raise ModelError(
            f"tensor '{name}' has the element type {array.dtype}",
            why="edgeq imports floats, integers and booleans",
            mend="export the model without tensors of that type",
        ) from error
