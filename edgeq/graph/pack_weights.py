"""Weights of MatMul and Gemm as packed INT4 behind a block-wise DequantizeLinear: which, and how they are written.

Entries: `find_matrices` and `pack_weights`; the numbers come from `edgeq.quant.weight_only`. Activations stay float.
Source: ONNX DequantizeLinear 21; TensorRT takes such weights for MatMul and Gemm alone, in whole blocks along the
inputs, with an even last axis (tensorrt.md 2.1, 2.8).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgeq.core.errors import TargetError
from edgeq.core.numerics import pack_int4
from edgeq.core.quantized import PackedMatrix
from edgeq.core.specs import TargetCard
from edgeq.graph.convert_opset import convert_opset
from edgeq.graph.passes import PassResult
from edgeq.graph.placement.weighted import SMALL_MATRIX
from edgeq.graph.unread import names_read, remove_unread
from edgeq.graph.view import GraphView, attribute, node_id, unique_name

# Blocks, and the type INT4 itself, came with opset 21 and IR version 10.
PACKED_OPSET = 21
PACKED_IR = 10

# The shortest block that TensorRT's INT4 kernels are known to take (tensorrt.md 2.8).
SHORTEST_KNOWN_BLOCK = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class MatrixSite:
    """A constant weight of MatMul or Gemm nodes that can be packed.

    Attributes:
        tensor: the initializer or Constant output.
        readers: the nodes that read it, all as their second operand.
        inputs, outputs: K and N.
        is_transposed: stored as [N, K] (Gemm with transB).
        block: how many inputs share a scale; divides K.
        may_split: some of the inputs may be computed beside the others, in float.
    """

    tensor: str
    readers: tuple[str, ...]
    inputs: int
    outputs: int
    is_transposed: bool
    block: int
    may_split: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Untouched:
    """A weighted node that stays as it is, and why."""

    node: str
    op_type: str
    reason: str


def find_matrices(
    model: onnx.ModelProto, *, block: int
) -> tuple[tuple[MatrixSite, ...], tuple[Untouched, ...]]:
    """Return the weights that can be packed, and the weighted nodes that stay float, both in file order.

    Args:
        model: with inferred shapes; weights stored as constants.
        block: the longest block; where it does not divide K, it is halved, down to `SHORTEST_KNOWN_BLOCK`.
    """
    view = GraphView(model)
    sites: dict[str, MatrixSite] = {}
    untouched = []
    for node in view.nodes:
        if node.op_type in {"Conv", "ConvTranspose"}:
            reason = "no TensorRT has INT4 convolutions"
            untouched.append(Untouched(node=node_id(node), op_type=node.op_type, reason=reason))
        if node.op_type not in {"Gemm", "MatMul"}:
            continue
        found = _examine(view, node, block)
        if isinstance(found, MatrixSite):
            sites[found.tensor] = found
        else:
            untouched.append(Untouched(node=node_id(node), op_type=node.op_type, reason=found))
    return tuple(sites.values()), tuple(untouched)


def pack_weights(
    model: onnx.ModelProto,
    sites: tuple[MatrixSite, ...],
    packed: Mapping[str, PackedMatrix],
    *,
    card: TargetCard,
) -> PassResult:
    """Return `model` with the weights of `sites` packed; the input is not changed. `touched` are the unpacked weights.

    1. A weight becomes INT4 codes -> DequantizeLinear with block_size and axis, scale and zero point with one value a
       block; Gemm's transB stays.
    2. Rows that are kept in float are a second product beside the first: Gather of these inputs, MatMul, Add. The sum
       has the name of the old output.
    3. Left alone: everything else.

    Raises:
        TargetError: if the model's opset is above what the target parses, or its IR version below what INT4 needs.
        ModelError: if the opset cannot be raised to 21.
    """
    fitted, findings = _fit(model, card)
    writer = _Writer(fitted)
    unpacked = [writer.pack(site, packed[site.tensor]) for site in sites]
    writer.finish()
    return PassResult(
        model=fitted,
        changed=bool(sites),
        touched=tuple(unpacked),
        findings=tuple(findings),
    )


def _examine(view: GraphView, node: onnx.NodeProto, block: int) -> MatrixSite | str:
    """Return the site of the weight of `node`, or why it stays float."""
    root = view.constant_root(node.input[1])
    if root is None or view.constant_root(node.input[0]) is not None:
        return "its second operand is no constant, so it has no weight"
    values = view.constant(root)
    if values is None or values.dtype != np.float32 or values.ndim != 2:
        return "its weight is no float32 matrix"
    readers = _readers(view, root)
    for reader, index in readers:
        if reader.op_type != node.op_type or index != 1 or _turned(reader) != _turned(node):
            return f"its weight is also read by {reader.op_type} '{node_id(reader)}' in float"
    inputs, outputs = values.shape[::-1] if _turned(node) else values.shape
    if min(inputs, outputs) < SMALL_MATRIX:
        return f"a weight of {inputs} x {outputs} is too small for a kernel of its own"
    if values.shape[1] % 2:
        return f"TensorRT 10 wants an even last axis, and that of its weight is {values.shape[1]}"
    found = _divisor(inputs, block)
    if found is None:
        return (
            f"its {inputs} inputs are no multiple of the block: {_describe_blocks(inputs, block)}"
        )
    return MatrixSite(
        tensor=root,
        readers=tuple(node_id(reader) for reader, _ in readers),
        inputs=inputs,
        outputs=outputs,
        is_transposed=_turned(node),
        block=found,
        may_split=all(_is_plain(reader) for reader, _ in readers),
    )


def _readers(view: GraphView, root: str) -> list[tuple[onnx.NodeProto, int]]:
    """Return who reads the weight `root`, also under the names that Identity nodes give it, in file order."""
    names = {root}
    found = []
    for node in view.nodes:
        for index, name in enumerate(node.input):
            if name in names and node.op_type == "Identity":
                names.update(node.output)
            elif name in names:
                found.append((node, index))
    return found


def _turned(node: onnx.NodeProto) -> bool:
    return node.op_type == "Gemm" and bool(attribute(node, "transB", 0))


def _is_plain(node: onnx.NodeProto) -> bool:
    """Return true if a part of the sum over the inputs can be computed beside the rest."""
    return not attribute(node, "transA", 0) and attribute(node, "alpha", 1.0) == 1.0


def _divisor(size: int, block: int) -> int | None:
    while size % block:
        if block % 2 or block // 2 < SHORTEST_KNOWN_BLOCK:
            return None
        block //= 2
    return block


def _describe_blocks(size: int, block: int) -> str:
    shorter = next((b for b in (32, 16) if size % b == 0 and b < block), None)
    if shorter is None:
        return "no block that a runtime takes divides them"
    return f"--block {shorter} would divide them (not known to run in TensorRT)"


def newest_packed_opset(card: TargetCard) -> int:
    """Return the newest opset of a file with INT4 weights that the target takes."""
    return max(PACKED_OPSET, card.opset_max)


def _fit(model: onnx.ModelProto, card: TargetCard) -> tuple[onnx.ModelProto, list[str]]:
    opset, newest = GraphView(model).opset, newest_packed_opset(card)
    if opset > newest or card.ir_max < PACKED_IR:
        raise TargetError(
            f"the model has opset {opset}; '{card.name}' takes INT4 weights up to {newest}",
            why="its parser does not know newer operators",
            mend=f"export the model again with opset {PACKED_OPSET} or lower",
        )
    findings = []
    if opset < PACKED_OPSET:
        fitted = convert_opset(model, PACKED_OPSET, why="INT4 came with opset 21")
        findings.append(f"opset {opset} was raised to {PACKED_OPSET}, which INT4 needs")
    else:
        fitted = onnx.ModelProto()
        fitted.CopyFrom(model)
    fitted.ir_version = min(max(fitted.ir_version, PACKED_IR), card.ir_max)
    if card.opset_max < PACKED_OPSET:
        findings.append(
            f"{card.runtime} {card.runtime_version} documents opsets up to {card.opset_max}; its parser has INT4, "
            f"which needs {PACKED_OPSET}: not tried on a device"
        )
    return fitted, findings


class _Writer:
    """Edits a model in place: collects new nodes, then rebuilds the node list once."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._graph = model.graph
        view = GraphView(model)
        self._used = view.names() | names_read(model.graph)
        self._used |= {item.name for item in model.graph.value_info}
        self._nodes = {node_id(node): node for node in view.nodes}
        self._before: dict[str, list[onnx.NodeProto]] = {}
        self._after: dict[str, list[onnx.NodeProto]] = {}
        self._zeros: dict[tuple[int, ...], str] = {}
        self._replaced: set[str] = set()

    def pack(self, site: MatrixSite, matrix: PackedMatrix) -> str:
        """Put a DequantizeLinear in front of the readers of one weight; return its output."""
        codes, scale = matrix.codes, matrix.scale
        if site.is_transposed:
            codes, scale = codes.T, scale.T
        name = site.tensor
        inputs = [
            self._add(_int4(codes), f"{name}/codes"),
            self._add(numpy_helper.from_array(np.ascontiguousarray(scale)), f"{name}/scale"),
            self._zero_point(scale.shape, name),
        ]
        dequantizer = self._node(
            "DequantizeLinear",
            inputs,
            f"{name}/dq",
            axis=int(site.is_transposed),
            block_size=matrix.block,
        )
        self._before.setdefault(site.readers[0], []).append(dequantizer)
        self._replaced.add(name)
        for reader in site.readers:
            node = self._nodes[reader]
            self._replaced.add(node.input[1])
            node.input[1] = dequantizer.output[0]
        if len(matrix.rows):
            rows = self._add(numpy_helper.from_array(matrix.rows), f"{name}/rows")
            floats = self._add(numpy_helper.from_array(matrix.floats), f"{name}/floats")
            for reader in site.readers:
                self._add_rows(reader, rows, floats)
        return str(dequantizer.output[0])

    def finish(self) -> None:
        """Bring the nodes into order and remove the float weights."""
        nodes = []
        for name, node in self._nodes.items():
            nodes += [*self._before.get(name, []), node, *self._after.get(name, [])]
        copies = []
        for node in nodes:
            copy = onnx.NodeProto()
            copy.CopyFrom(node)
            copies.append(copy)
        del self._graph.node[:]
        self._graph.node.extend(copies)
        remove_unread(self._graph, self._replaced)

    def _add_rows(self, reader: str, rows: str, floats: str) -> None:
        """Add the product of the inputs that are kept in float to the output of one reader."""
        node = self._nodes[reader]
        output = node.output[0]
        node.output[0] = unique_name(f"{output}/packed", self._used)
        picked = self._node("Gather", [node.input[0], rows], f"{output}/picked", axis=-1)
        product = self._node("MatMul", [picked.output[0], floats], f"{output}/kept")
        total = self._node("Add", [node.output[0], product.output[0]], f"{output}/sum")
        total.output[0] = output
        self._after[reader] = [picked, product, total]

    def _zero_point(self, shape: tuple[int, ...], wish: str) -> str:
        """Return the zero point of this shape, made once: TensorRT demands one that is there, and 0."""
        if shape not in self._zeros:
            zeros = np.zeros(shape, np.int8)
            self._zeros[shape] = self._add(_int4(zeros), f"{wish}/zero_point")
        return self._zeros[shape]

    def _add(self, tensor: onnx.TensorProto, wish: str) -> str:
        tensor.name = unique_name(wish, self._used)
        self._graph.initializer.append(tensor)
        return str(tensor.name)

    def _node(self, op: str, inputs: list[str], wish: str, **attributes: int) -> onnx.NodeProto:
        name = unique_name(wish, self._used)
        node: onnx.NodeProto = helper.make_node(op, inputs, [name], name=name)
        node.attribute.extend(helper.make_attribute(key, attributes[key]) for key in attributes)
        return node


def _int4(codes: np.ndarray[tuple[int, ...], np.dtype[np.int8]]) -> onnx.TensorProto:
    return onnx.TensorProto(
        data_type=TensorProto.INT4, dims=codes.shape, raw_data=pack_int4(codes).tobytes()
    )
