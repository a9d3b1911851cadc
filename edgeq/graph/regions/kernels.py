"""Which nodes behind a convolution or matrix product become one kernel with it.

Source: TensorRT developer guide, processing of Q/DQ networks, and ModelOpt's partition rules (tensorrt.md 2.2, 2.4).
"""

from __future__ import annotations

import onnx

from edgeq.graph.lint.check import LintView, Q
from edgeq.graph.placement.flow import FUSED_CLAMPS, SHAPE_READERS, moved_input, value_readers
from edgeq.graph.placement.weighted import is_depthwise
from edgeq.graph.view import node_id

GATES = frozenset({"HardSigmoid", "Sigmoid"})

# Functions of one tensor that a dense kernel applies before it stores its result.
ACTIVATIONS = frozenset(
    {"Celu", "Elu", "Gelu", "HardSigmoid", "HardSwish", "LeakyRelu", "Mish", "PRelu", "Selu"}
    | {"Sigmoid", "Softplus", "Swish", "Tanh", "ThresholdedRelu"}
)


class RegionView(LintView):
    """A `LintView` that also knows the order of the nodes and what is computed before the network runs.

    Attributes:
        order: position of every node in the file, by node id.
        static: tensors that follow from constants and shapes alone.
    """

    def __init__(self, model: onnx.ModelProto, original: onnx.ModelProto) -> None:
        super().__init__(model, original)
        self.order = {node_id(node): index for index, node in enumerate(self.nodes)}
        self.static = {"", *self.initializers}
        for node in self.nodes:
            if node.op_type in SHAPE_READERS or self.static.issuperset(node.input):
                self.static.update(node.output)

    def operands(self, node: onnx.NodeProto) -> list[str]:
        """Return the inputs of `node` that are computed while the network runs."""
        return [name for name in node.input if name not in self.static]


def readers_of(view: RegionView, tensor: str) -> list[onnx.NodeProto]:
    """Return the nodes that use the values of `tensor`, each once."""
    found = {node_id(node): node for node, _ in value_readers(view, tensor)}
    return list(found.values())


def q_follows(view: RegionView, tensor: str) -> bool:
    """Return true if every reader of `tensor` gets it through a Q, looked for through data movement."""
    waiting, found = [tensor], False
    while waiting:
        name = waiting.pop()
        if name in view.outputs:
            return False
        for node in readers_of(view, name):
            if node.op_type == Q:
                found = True
            elif moved_input(view, node) == name:
                waiting.extend(item for item in node.output if item)
            else:
                return False
    return found


def grow(view: RegionView, kernel: onnx.NodeProto, *, is_int8: bool) -> list[onnx.NodeProto]:
    """Return `kernel`, a weighted node, with the nodes behind it that become one kernel with it, in file order.

    1. BatchNormalization, Relu and Clip, and the Add of a constant.
    2. The Add of a residual connection, once: an INT8 kernel takes it if the shortcut is quantized, a float one if
       the shortcut is float and was made before.
    3. Activations, and x * Sigmoid(x); not behind a depthwise INT8 convolution.
    4. A MaxPool in front of a Q, which ends the kernel.
    5. Anything that has a second reader in front of it, or a Q/DQ pair, ends the kernel.
    """
    nodes = [kernel]
    is_bare = is_int8 and kernel.op_type == "Conv" and is_depthwise(view, kernel)
    while True:
        tensor = nodes[-1].output[0]
        more = [] if tensor in view.outputs else _next(view, nodes, tensor, is_int8=is_int8)
        if not more or (is_bare and more[0].op_type in ACTIVATIONS):
            return nodes
        nodes += more
        if more[0].op_type == "MaxPool":
            return nodes


def _next(
    view: RegionView, nodes: list[onnx.NodeProto], tensor: str, *, is_int8: bool
) -> list[onnx.NodeProto]:
    readers = readers_of(view, tensor)
    if len(readers) == 2:
        return _gate(view, tensor, readers)
    if len(readers) != 1:
        return []
    (reader,) = readers
    if reader.op_type in FUSED_CLAMPS | ACTIVATIONS:
        return [reader]
    if reader.op_type == "BatchNormalization" and len(nodes) == 1:
        return [reader]
    if reader.op_type == "Add" and _takes_add(view, nodes, tensor, reader, is_int8=is_int8):
        return [reader]
    if reader.op_type == "MaxPool" and q_follows(view, reader.output[0]):
        return [reader]
    return []


def _gate(view: RegionView, tensor: str, readers: list[onnx.NodeProto]) -> list[onnx.NodeProto]:
    """Return the gate and the product of x * gate(x), if these two read `tensor`."""
    gate, product = sorted(readers, key=lambda node: node.op_type == "Mul")
    if gate.op_type not in GATES or product.op_type != "Mul":
        return []
    is_gated = set(product.input) == {tensor, gate.output[0]}
    only = readers_of(view, gate.output[0]) == [product] and gate.output[0] not in view.outputs
    return [gate, product] if is_gated and only else []


def _takes_add(
    view: RegionView,
    nodes: list[onnx.NodeProto],
    tensor: str,
    add: onnx.NodeProto,
    *,
    is_int8: bool,
) -> bool:
    others = [name for name in add.input if name != tensor]
    if len(others) != 1:
        return False
    if view.constant_root(others[0]) is not None:
        return True
    taken = any(node.op_type == "Add" and not _adds_constant(view, node) for node in nodes)
    if taken or view.shape(others[0]) != view.shape(tensor):
        return False
    if is_int8:
        return view.dequantizer(others[0]) is not None
    maker = view.producer(others[0])
    is_ready = maker is None or view.order[node_id(maker)] < view.order[node_id(nodes[-1])]
    return is_ready and view.dequantizer(others[0]) is None


def _adds_constant(view: RegionView, add: onnx.NodeProto) -> bool:
    return any(view.constant_root(name) is not None for name in add.input)
