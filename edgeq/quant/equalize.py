"""Cross-layer equalization: move the sizes of channels between two layers that follow each other.

For the output channel i of W1 and the input channel i of W2, with r1 = max |W1[i]| and r2 = max |W2[:, i]|:
s_i = sqrt(r1 / r2), W1[i] /= s_i, b1[i] /= s_i, W2[:, i] *= s_i. Afterwards both ranges are sqrt(r1 r2), and the
network computes what it did. Source: DFQ (Nagel et al., ICCV 2019), section 4.1.

On per-channel scales W1 gains nothing (its scale takes s_i up); the activation between the two, which has one scale for
all channels, and W2, whose output channels now have input channels of one size, do. Chains of three with a depthwise
layer in the middle come out equal, too, because the sweeps are repeated.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx, nn

from edgeq.core.plan import OwnRange, QuantPlan, Role
from edgeq.teacher.teacher import Teacher

# f(s x) = s f(x) for s > 0, channel by channel.
HOMOGENEOUS = {
    "Relu",
    "LeakyRelu",
    "PRelu",
    "MaxPool",
    "AveragePool",
    "GlobalAveragePool",
    "Identity",
}

SWEEPS = 20
# Sweeps end when no channel is moved by more than this share.
SMALLEST_MOVE = 1e-4
# Factors nearer to 1 than this are noise of float32.
SMALLEST_CHANGE = 1e-3
# Factors beyond these come from channels that are all but switched off (the figures of jakc4103/DFQ).
LARGEST_FACTOR = 1e8


@dataclass(frozen=True, slots=True)
class Layer:
    """A convolution or matrix product with weight [out, in / groups, ...] and perhaps a bias [out]."""

    weight: nn.Parameter
    bias: nn.Parameter | None
    is_depthwise: bool


def equalize(teacher: Teacher, plan: QuantPlan) -> tuple[Teacher, int]:
    """Return a teacher of the same function with equalized layers, and how many pairs of layers they are.

    A pair is eligible if both weights are quantized (others are not written), each is read by one layer, nothing but
    homogeneous functions lies between them, nobody else reads what lies between, and no grid between them has a
    limit. Weights with [in, out] and transposed convolutions are left alone, as in DFQ.

    Args:
        teacher: stays as it is.
        plan: on its graph.
    """
    copy = teacher.copy()
    pairs = list(_pairs(copy, plan))
    for _ in range(SWEEPS):
        moves = [_equalize_pair(first, second) for first, second in pairs]
        if max(moves, default=0.0) < SMALLEST_MOVE:
            break
    return copy, len(pairs)


def channel_factors(
    before: Teacher, after: Teacher, inputs: Sequence[Tensor]
) -> dict[str, NDArray[np.float32]]:
    """Return by how much equalization has multiplied the channels of tensors, [C] by tensor; others are left out.

    Args:
        before: the float teacher.
        after: what equalization made of it; the same graph.
        inputs: one batch, one tensor a graph input. A channel that it leaves empty has the factor 1.
    """
    sizes = [_ChannelSizes(teacher.module) for teacher in (before, after)]
    with torch.no_grad():
        for run in sizes:
            run.run(*inputs)
    was, now = (run.found for run in sizes)
    factors = {name: torch.where(was[name] > 0, now[name] / was[name], 1.0) for name in was}
    return {
        name: item.cpu().numpy().astype(np.float32)
        for name, item in factors.items()
        if ((item - 1).abs() > SMALLEST_CHANGE).any()
    }


class _ChannelSizes(fx.Interpreter):
    """Notes the largest absolute value of every channel of every tensor that has channels on axis 1."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.found: dict[str, Tensor] = {}

    def run_node(self, n: fx.Node) -> Any:
        """Run a node, and note the sizes of its channels."""
        value = super().run_node(n)
        if "tensor" in n.meta and has_channels(value):
            self.found[n.meta["tensor"]] = channel_sizes(value)
        return value


def has_channels(value: Any) -> bool:
    """Return true for what channels on axis 1 can be looked for in: floats, two axes at least, not empty."""
    is_float = isinstance(value, Tensor) and value.is_floating_point()
    return is_float and value.ndim >= 2 and value.numel() > 0


def channel_sizes(value: Tensor) -> Tensor:
    """Return the largest absolute value of every channel of `value` [N, C, ...], [C], float64."""
    return value.movedim(1, 0).flatten(1).abs().amax(1).double()


def _equalize_pair(first: Layer, second: Layer) -> float:
    """Equalize two layers in place; return the largest |log s|."""
    with torch.no_grad():
        ranges = first.weight.abs().flatten(1).amax(1)
        axis = 0 if second.is_depthwise else 1
        others = second.weight.abs().movedim(axis, 0).flatten(1).amax(1)
        factor = (ranges / others).sqrt().clamp(1 / LARGEST_FACTOR, LARGEST_FACTOR)
        factor = torch.where((ranges > 0) & (others > 0), factor, torch.ones_like(factor))
        first.weight.div_(along(factor, first.weight, 0))
        if first.bias is not None:
            first.bias.div_(factor)
        second.weight.mul_(along(factor, second.weight, axis))
        return float(factor.log().abs().max())


def along(factor: Tensor, weight: Tensor, axis: int) -> Tensor:
    """Return `factor` [C] shaped to broadcast over `axis` of `weight`."""
    shape = [1] * weight.ndim
    shape[axis] = -1
    return factor.view(shape)


def layers_of(teacher: Teacher, plan: QuantPlan) -> dict[fx.Node, Layer]:
    """Return the layers whose channels may be rescaled: quantized weights [out, in, ...] that one layer reads."""
    nodes = teacher.module.graph.nodes
    of_node = {node.meta["onnx_node"]: node for node in nodes if "onnx_node" in node.meta}
    layers: dict[fx.Node, Layer] = {}
    for decision in plan.quantized(Role.WEIGHT):
        node = of_node[decision.sites[0].node]
        axis = decision.grid.axis if decision.grid is not None else None
        is_plain = node.meta["onnx_op"] == "Conv" or (node.meta["onnx_op"] == "Gemm" and axis == 0)
        if is_plain and len(decision.sites) == 1:
            layer = _layer(teacher, node)
            if layer is not None:
                layers[node] = layer
    return layers


def limited_tensors(teacher: Teacher, plan: QuantPlan) -> set[str]:
    """Return the fx nodes of quantized activations whose range is given, so that their size must stay."""
    owners = {decision.tensor: decision.owner for decision in plan.quantized(Role.ACTIVATION)}
    free = {name for name, owner in owners.items() if owner == OwnRange()}
    return {teacher.fx_node_of[name] for name in owners if plan.owner_of(name) not in free}


def _pairs(teacher: Teacher, plan: QuantPlan) -> Iterator[tuple[Layer, Layer]]:
    layers = layers_of(teacher, plan)
    limited = limited_tensors(teacher, plan)
    for node, layer in layers.items():
        reader = _reader(node, limited)
        if reader in layers and _fits(layer, layers[reader]):
            yield layer, layers[reader]


def _layer(teacher: Teacher, node: fx.Node) -> Layer | None:
    """Return the layer of a node, None where its parameters have other readers."""
    found: list[nn.Parameter | None] = []
    for argument in (*node.args[1:3], None)[:2]:
        if argument is None:
            found.append(None)
            continue
        if not isinstance(argument, fx.Node) or argument.op != "get_attr":
            return None
        parameter = getattr(teacher.module, str(argument.target))
        if len(argument.users) != 1 or not isinstance(parameter, nn.Parameter):
            return None
        found.append(parameter)
    weight, bias = found
    if weight is None:
        return None
    return Layer(weight, bias, is_depthwise=weight.ndim > 2 and weight.shape[1] == 1)


def _reader(node: fx.Node, limited: set[str]) -> fx.Node | None:
    """Return the layer behind `node`, if homogeneous functions alone lie between and nobody else reads them."""
    while len(node.users) == 1:
        if node.name in limited:
            return None
        (user,) = node.users
        if user.op == "output" or user.all_input_nodes[0] is not node:
            return None
        if user.meta.get("onnx_op") not in HOMOGENEOUS:
            return user
        node = user
    return None


def _fits(first: Layer, second: Layer) -> bool:
    """Return true if the input channels of `second` are the output channels of `first`, one by one."""
    channels = first.weight.shape[0]
    if second.is_depthwise:
        return second.weight.shape[0] == channels
    return second.weight.shape[1] == channels
