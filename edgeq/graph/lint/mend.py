"""Mend what a lint finds where that changes no value: `mend`.

Every fix leaves what ONNX says the model computes as it is, to the bit. A fault whose mending would change values, such
as a zero point other than 0 and 128, is left to whoever made the file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from edgeq.core.errors import ModelError
from edgeq.core.serial import Spec
from edgeq.core.specs import TargetCard
from edgeq.graph.convert_opset import convert_opset
from edgeq.graph.fit_target import LOWEST_IR, QDQ_OPSET
from edgeq.graph.lint.check import DQ, LintView, Q
from edgeq.graph.structure import names_read_inside
from edgeq.graph.view import GraphView, attribute, node_id, unique_name

_UINT8_MIDDLE = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class Fix(Spec):
    """One thing that was mended: the check that found it, the node or tensor, and what was done."""

    check: str
    node: str
    what: str


def mend(model: onnx.ModelProto, card: TargetCard) -> tuple[onnx.ModelProto, tuple[Fix, ...]]:
    """Return a copy of `model` with all that can be mended exactly, and the list of what was done.

    Args:
        model: not changed; valid ONNX, with its external data loaded.
        card: the target, for opset and IR version.
    """
    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    fixed, fixes = _fit_versions(fixed, card)
    steps: tuple[Callable[[_Editor], Iterable[Fix]], ...] = (
        _add_zero_points,
        _shape_zero_points,
        _shift_uint8,
        _write_axes,
        _keep_biases_float,
    )
    if card.runtime == "tensorrt":
        for step in steps:
            editor = _Editor(fixed)
            fixes += step(editor)
            editor.finish()
    return fixed, tuple(fixes)


class _Editor:
    """A model that one step edits, with the index of how it was before the step."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        self.view = LintView(_infer(model), model)
        self.nodes = {node_id(node): node for node in model.graph.node}  # those to edit
        self.locked = names_read_inside(model.graph) | set(self.view.outputs)
        self._used = self.view.names()
        self._replaced: set[str] = set()

    def each(self, *ops: str) -> list[onnx.NodeProto]:
        """Return the editable nodes of the operators `ops`."""
        return [node for node in self.model.graph.node if node.op_type in ops]

    def add(self, wish: str, value: NDArray[np.generic]) -> str:
        """Add an initializer and return its name."""
        name = unique_name(wish, self._used)
        self.model.graph.initializer.append(numpy_helper.from_array(value, name))
        return name

    def set_input(self, node: onnx.NodeProto, index: int, name: str) -> None:
        """Let `node` read `name` at `index`; what it read before is removed if nobody else does."""
        while len(node.input) <= index:
            node.input.append("")
        self._replaced.add(node.input[index])
        node.input[index] = name

    def finish(self) -> None:
        """Remove the constants that this step put out of use."""
        graph = self.model.graph
        read = {name for node in graph.node for name in node.input} | self.locked
        gone = self._replaced - read
        _keep(graph.initializer, lambda item: item.name not in gone)
        _keep(
            graph.input,
            lambda item: item.name not in gone or item.name not in self.view.initializers,
        )
        _keep(graph.node, lambda node: node.op_type != "Constant" or node.output[0] not in gone)


def _keep(items: object, wanted: Callable[[onnx.NodeProto], bool]) -> None:
    kept = [item for item in items if wanted(item)]  # type: ignore[attr-defined]
    del items[:]  # type: ignore[attr-defined]
    items.extend(kept)  # type: ignore[attr-defined]


def _infer(model: onnx.ModelProto) -> onnx.ModelProto:
    try:
        return onnx.shape_inference.infer_shapes(model)
    except (onnx.shape_inference.InferenceError, ValueError, RuntimeError):
        return model  # the check model.checker reports it; types that stay unknown are not mended


def _fit_versions(model: onnx.ModelProto, card: TargetCard) -> tuple[onnx.ModelProto, list[Fix]]:
    """Bring opset and IR version into the target's range, as far as ONNX's converter can."""
    fixes = []
    opset = GraphView(model).opset
    wanted = min(max(opset, QDQ_OPSET, card.opset_min), card.opset_max)
    if opset != wanted:
        try:
            converted = convert_opset(model, wanted)
            # The converter does not look at types: FP16 scales, for instance, came with opset 19.
            onnx.checker.check_model(converted, full_check=True)
        except (ModelError, onnx.checker.ValidationError, onnx.shape_inference.InferenceError):
            pass  # not mended: the second lint reports it
        else:
            model = converted
            fixes.append(
                Fix(check="model.opset", node="", what=f"opset {opset} was converted to {wanted}")
            )
    version = min(max(model.ir_version, LOWEST_IR), card.ir_max)
    if version != model.ir_version:
        what = f"IR version {model.ir_version} was set to {version}"
        fixes.append(Fix(check="model.ir-version", node="", what=what))
        model.ir_version = version
    return model, fixes


def _add_zero_points(editor: _Editor) -> Iterable[Fix]:
    """Write the zero point of INT8 nodes that have none; one of UINT8 means other values to TensorRT."""
    view = editor.view
    for node in editor.each(Q, DQ):
        scale = view.operand(node, 1)
        if scale is None or (len(node.input) > 2 and node.input[2]):
            continue
        kind = view.element_type(node.output[0] if node.op_type == Q else node.input[0])
        if kind == onnx.TensorProto.INT8:
            editor.set_input(
                node, 2, editor.add(f"{node.input[1]}/zero", np.zeros(scale.shape, np.int8))
            )
            yield Fix(check="qdq.inputs", node=node_id(node), what="an INT8 zero point was added")


def _shape_zero_points(editor: _Editor) -> Iterable[Fix]:
    """Give zero points of all zeros the shape of their scale."""
    for node in editor.each(Q, DQ):
        scale, zero = editor.view.operand(node, 1), editor.view.operand(node, 2)
        if scale is None or zero is None or scale.size == zero.size or np.any(zero):
            continue
        value = np.zeros(scale.shape, zero.dtype)
        editor.set_input(node, 2, editor.add(f"{node.input[2]}/shaped", value))
        what = f"its zero point was given the shape {list(scale.shape)}"
        yield Fix(check="qdq.zero-point-shape", node=node_id(node), what=what)


def _shift_uint8(editor: _Editor) -> Iterable[Fix]:
    """Turn UINT8 codes around 128 into INT8 codes around 0: clamp(r + 128, 0, 255) - 128 is clamp(r, -128, 127)."""
    view = editor.view
    for node in editor.each(Q):
        codes = node.output[0]
        if _is_middle(view, node) and _all_middle(editor, codes):
            _set_zero(editor, node)
            for item in node.attribute:
                if item.name == "output_dtype":
                    item.i = onnx.TensorProto.INT8
            for item in editor.model.graph.value_info:
                if item.name == codes:
                    item.type.tensor_type.elem_type = onnx.TensorProto.INT8
            yield from _shift_readers(editor, codes)
            what = "UINT8 with zero point 128 became INT8 with zero point 0"
            yield Fix(check="qdq.type", node=node_id(node), what=what)
    graph_inputs = {item.name for item in editor.model.graph.input}
    for stored in editor.model.graph.initializer:
        is_codes = stored.data_type == onnx.TensorProto.UINT8 and stored.name not in graph_inputs
        if is_codes and view.consumers(stored.name) and _all_middle(editor, stored.name):
            codes8 = (numpy_helper.to_array(stored).astype(np.int16) - _UINT8_MIDDLE).astype(
                np.int8
            )
            name = stored.name
            stored.CopyFrom(numpy_helper.from_array(codes8, name))
            yield from _shift_readers(editor, name)


def _is_middle(view: LintView, node: onnx.NodeProto) -> bool:
    zero = view.operand(node, 2)
    return zero is not None and zero.dtype == np.uint8 and bool(np.all(zero == _UINT8_MIDDLE))


def _all_middle(editor: _Editor, codes: str) -> bool:
    """Return true if only DQ nodes with zero point 128 read `codes`, and nobody outside the graph does."""
    readers = editor.view.consumers(codes)
    return codes not in editor.locked and all(
        reader.op_type == DQ and index == 0 and _is_middle(editor.view, reader)
        for reader, index in readers
    )


def _shift_readers(editor: _Editor, codes: str) -> Iterable[Fix]:
    for reader, _ in editor.view.consumers(codes):
        node = editor.nodes[node_id(reader)]
        _set_zero(editor, node)
        what = "UINT8 with zero point 128 became INT8 with zero point 0"
        yield Fix(check="qdq.type", node=node_id(node), what=what)


def _set_zero(editor: _Editor, node: onnx.NodeProto) -> None:
    zero = editor.view.operand(node, 2)
    assert zero is not None
    editor.set_input(node, 2, editor.add(f"{node.input[2]}/int8", np.zeros(zero.shape, np.int8)))


def _write_axes(editor: _Editor) -> Iterable[Fix]:
    """Write the axis that ONNX takes where none is written."""
    for node in editor.each(Q, DQ):
        scale = editor.view.operand(node, 1)
        if scale is not None and scale.size > 1 and attribute(node, "axis") is None:
            node.attribute.append(onnx.helper.make_attribute("axis", 1))
            what = "axis 1, which ONNX takes where none is written, was written"
            yield Fix(check="qdq.axis", node=node_id(node), what=what)


def _keep_biases_float(editor: _Editor) -> Iterable[Fix]:
    """Replace the DQ of a stored INT32 bias by its values in float."""
    view, graph = editor.view, editor.model.graph
    for node in editor.each(DQ):
        codes, scale, zero = (view.operand(node, index) for index in range(3))
        if codes is None or scale is None or codes.dtype != np.int32 or scale.dtype != np.float32:
            continue
        if node.output[0] in editor.locked or (zero is not None and np.any(zero)):
            continue
        if attribute(node, "output_dtype", 0) not in {0, onnx.TensorProto.FLOAT}:
            continue
        if scale.size > 1 and (scale.ndim > 1 or codes.ndim != 1):
            continue  # a bias is a vector
        values = codes.astype(np.float32) * scale.astype(np.float32)
        name = node.output[0]
        graph.initializer.append(
            numpy_helper.from_array(values.reshape(codes.shape).astype(np.float32), name)
        )
        _keep(graph.value_info, lambda item, name=name: item.name != name)  # type: ignore[misc]
        for index in range(len(node.input)):
            editor.set_input(node, index, "")
        graph.node.remove(node)
        yield Fix(check="qdq.bias", node=name, what="the INT32 bias is stored in float now")
