"""Which parts of the network are reconstructed together: blocks or layers, found from the graph's structure.

Entry: `partition`. A block lies between two tensors that each alone carry the data (`graph.cuts`), so whole residual
branches are inside. A layer is one convolution or matrix product with the activation function behind it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from edgeq.core.plan import QuantPlan, Role
from edgeq.quant.cones import closes, cone
from edgeq.teacher.teacher import Teacher, with_outputs

# Elementwise functions that belong to the layer in front of them.
ACTIVATIONS = {
    "Relu", "LeakyRelu", "PRelu", "Clip", "Sigmoid", "HardSigmoid", "HardSwish", "Tanh", "Elu", "Selu", "Celu",
    "Softplus", "Softsign", "Gelu", "Mish",
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """A part of the network with one output; names are those of fx nodes, the same in teacher and student.

    Attributes:
        anchor: what everything in the unit can be computed from: one cut tensor, or the inputs of the graph.
        inputs: what the unit reads; those of a block are its anchor.
        output: what it makes.
        weights: ONNX names of the quantized weights that are learned in it.
    """

    anchor: tuple[str, ...]
    inputs: tuple[str, ...]
    output: str
    weights: tuple[str, ...]


def partition(
    teacher: Teacher, plan: QuantPlan, cuts: Sequence[str], x: Sequence[Tensor], *, unit: str
) -> tuple[Unit, ...]:
    """Return the units in running order; each quantized weight is in the first unit that reads it.

    1. A block ends at the next cut behind a quantized weight, so the tensors of a chain without weights (pooling,
       reshaping) belong to the block behind them. The last one ends at the first output.
    2. A layer ends behind its activation function, if nothing else reads the layer's own output.
    3. A cut is left out where axis 0 is not the batch, or where what is behind it also needs an earlier tensor (its
       shape, say).
    4. Left alone, so in no unit: weights that do not bear on the first output; layers without the batch on axis 0.

    Deviation: BRECQ and its followers take blocks from the class names of the model's code; inverted residuals without
    a shortcut are one block there, and three here.

    Args:
        teacher: of the graph that ships.
        plan: on that graph.
        cuts: ONNX names of tensors that alone carry the data, in running order.
        x: two samples or more, one tensor a graph input.
        unit: "block" or "layer".
    """
    ends = _usable(teacher, [*cuts, teacher.outputs[0]], x)
    blocks = tuple(_blocks(teacher, plan, ends))
    if unit == "block":
        return blocks
    return tuple(_layers(teacher, plan, blocks, x))


def _usable(teacher: Teacher, names: Sequence[str], x: Sequence[Tensor]) -> list[str]:
    """Return the fx nodes of those tensors that have the batch on axis 0, and real numbers."""
    with torch.no_grad():
        _, values = with_outputs(teacher, names)(*x)
    return [
        teacher.fx_node_of[name]
        for name, value in zip(names, values, strict=True)
        if _is_batch(value, len(x[0]))
    ]


def _blocks(teacher: Teacher, plan: QuantPlan, ends: Sequence[str]) -> Iterator[Unit]:
    anchor = tuple(teacher.fx_node_of[name] for name in teacher.inputs)
    seen: set[str] = set()
    final = teacher.fx_node_of[teacher.outputs[0]]
    for output in ends:
        if not closes(teacher.module, anchor, (output,)):
            continue
        if output != final and not closes(teacher.module, (output,), (final,)):
            continue
        part = cone(teacher.module, anchor, (output,))
        weights = tuple(name for name in _weights(teacher, plan, part) if name not in seen)
        if weights:
            seen.update(weights)
            yield Unit(anchor=anchor, inputs=anchor, output=output, weights=weights)
            anchor = (output,)


def _weights(teacher: Teacher, plan: QuantPlan, part: fx.GraphModule) -> list[str]:
    """Return the quantized weights that a part of the teacher reads."""
    quantized = {decision.tensor for decision in plan.quantized(Role.WEIGHT)}
    read = [teacher.binding.get(str(n.target)) for n in part.graph.nodes if n.op == "get_attr"]
    return [name for name in read if name in quantized]


def _layers(
    teacher: Teacher, plan: QuantPlan, blocks: Sequence[Unit], x: Sequence[Tensor]
) -> Iterator[Unit]:
    nodes = list(teacher.module.graph.nodes)
    of_node = {node.meta["onnx_node"]: node for node in nodes if "onnx_node" in node.meta}
    layer_of = {d.tensor: of_node[d.sites[0].node] for d in plan.quantized(Role.WEIGHT)}
    place = {node: index for index, node in enumerate(nodes)}
    for block in blocks:
        for weight in sorted(block.weights, key=lambda name: place[layer_of[name]]):
            layer = layer_of[weight]
            output = _behind_activation(layer).name
            data = next(node.name for node in layer.all_input_nodes if node.op != "get_attr")
            alone = closes(teacher.module, (data,), (output,)) and _batch_first(teacher, x, data)
            inputs = (data,) if alone else block.anchor
            if _batch_first(teacher, x, output):
                yield Unit(anchor=block.anchor, inputs=inputs, output=output, weights=(weight,))


def _behind_activation(layer: fx.Node) -> fx.Node:
    """Return the activation function that alone reads the output of `layer`, else `layer`."""
    while len(layer.users) == 1:
        (user,) = layer.users
        if user.meta.get("onnx_op") not in ACTIVATIONS or user.all_input_nodes[0] is not layer:
            break
        layer = user
    return layer


def _batch_first(teacher: Teacher, x: Sequence[Tensor], node: str) -> bool:
    inputs = [teacher.fx_node_of[name] for name in teacher.inputs]
    if node in inputs:
        return True
    with torch.no_grad():
        (value,) = cone(teacher.module, inputs, (node,))(*x)
    return _is_batch(value, len(x[0]))


def _is_batch(value: Tensor, count: int) -> bool:
    return value.ndim > 1 and value.shape[0] == count and value.is_floating_point()
