"""Activation equalization: channels that share a scale are brought to one size, shortcuts included.

A quantized activation has one scale, and its channels of small values get few of the codes. relu(f x) = f relu(x) for
f > 0: where the weights that make a channel are multiplied by f, and those that read it divided by f, the network
computes what it did. Channels that are added to each other, or are passed on by slices, pads and concatenations, must
have one factor: they are a class. Entry: `equalize_activations`.

Source: the invariance is that of cross-layer equalization (DFQ, Nagel et al., ICCV 2019), the strength that of
SmoothQuant (Xiao et al., ICML 2023). That classes go through shortcuts is ours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from edgeq.core.plan import QuantPlan, Role
from edgeq.quant.equalize import (
    Layer,
    along,
    channel_sizes,
    has_channels,
    layers_of,
    limited_tensors,
)
from edgeq.quant.student import require_grid
from edgeq.teacher.teacher import Teacher

# Functions with f(s x) = s f(x), s > 0, that leave every channel where it is.
_KEEPERS = {
    *("Relu", "LeakyRelu", "PRelu", "MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool"),
    "Identity",
}
# Functions that move values, and may fill up with zeros.
_MOVERS = {
    *("Slice", "Pad", "Concat", "Flatten", "Reshape", "Transpose", "Squeeze", "Unsqueeze"),
    *("DepthToSpace", "SpaceToDepth"),
}
_SHAPES = {"Shape", "Size"}

# Class 0 is of channels that are always 0 and have no factor, class 1 of those that must stay as they are.
_NOTHING, _FIXED = 0, 1
# Grids of so many bits and fewer are coarse: channels of 8 bits gained nothing from one size.
_COARSE_BITS = 4
# Factors are 1 / LARGEST_FACTOR to LARGEST_FACTOR: beyond, the weights that read a channel lose more than it gains.
LARGEST_FACTOR = 4.0


def coarse_activations(plan: QuantPlan) -> tuple[str, ...]:
    """Return the quantized activations whose grid has 4 bits or fewer."""
    activations = plan.quantized(Role.ACTIVATION)
    return tuple(item.tensor for item in activations if require_grid(item).bits <= _COARSE_BITS)


def equalize_activations(
    teacher: Teacher, plan: QuantPlan, inputs: Sequence[Tensor], strength: float
) -> tuple[Teacher, int]:
    """Return a teacher of the same function with equalized channels, and how many classes have moved.

    The factor of a class is the geometric mean of (r / r_c)^strength over its channels in `coarse_activations`: r_c is
    the largest absolute value of the channel, r that of the whole tensor. A class stays where a function that is not
    homogeneous reads it, and where it reaches an output of the graph, a layer whose weights are not quantized, or a
    grid whose range is given.

    Args:
        teacher: stays as it is.
        plan: on its graph.
        inputs: one batch, one tensor a graph input, that shows the sizes.
        strength: 0 for nothing, 1 for what suits the activations alone. The columns of the weights, which have one
            scale together, become as uneven as the channels were.
    """
    copy = teacher.copy()
    tracer = _ChannelTracer(copy, plan)
    with torch.no_grad():
        tracer.run(*inputs)
        factors = tracer.factors(strength)
        for node, move in tracer.moves.items():
            _rescale(tracer.layers[node], move, factors)
    return copy, int((factors != 1).sum())


@dataclass(frozen=True, slots=True)
class _Move:
    """The classes of a layer's output channels, and of its input channels; None where these have none."""

    rows: Tensor
    columns: Tensor | None


def _rescale(layer: Layer, move: _Move, factors: Tensor) -> None:
    """Multiply the rows of a layer, and divide its columns, in place."""
    rows = factors[move.rows].to(layer.weight)
    if move.columns is not None and layer.is_depthwise:
        per_row = rows / factors[move.columns].to(layer.weight)
        layer.weight.mul_(along(per_row, layer.weight, 0))
    else:
        layer.weight.mul_(along(rows, layer.weight, 0))
    if move.columns is not None and not layer.is_depthwise:
        layer.weight.div_(along(factors[move.columns].to(layer.weight), layer.weight, 1))
    if layer.bias is not None:
        layer.bias.mul_(rows)


class _ChannelTracer(fx.Interpreter):
    """Runs the teacher and follows every channel; channels lie on axis 1.

    Attributes:
        layers: that may be rescaled, by node.
        moves: of the layers that were met.
    """

    def __init__(self, teacher: Teacher, plan: QuantPlan) -> None:
        super().__init__(teacher.module)
        self.layers: Mapping[fx.Node, Layer] = layers_of(teacher, plan)
        self.moves: dict[fx.Node, _Move] = {}
        self._limited = limited_tensors(teacher, plan)
        self._coarse = {teacher.fx_node_of[tensor] for tensor in coarse_activations(plan)}
        self._parents = [_NOTHING, _FIXED]
        self._classes: dict[fx.Node, list[int]] = {}
        self._sizes: list[tuple[list[int], Tensor]] = []

    def run_node(self, n: fx.Node) -> Any:
        """Run a node, and note the classes of its channels."""
        value = super().run_node(n)
        if n.meta.get("onnx_op") in _SHAPES:
            return value
        classes = self._follow(n, value)
        if classes is None:
            for source in n.all_input_nodes:
                self._unite(self._classes.get(source, []), _FIXED)
            return value
        self._classes[n] = classes
        if n.name in self._limited:
            self._unite(classes, _FIXED)
        elif n.name in self._coarse:
            self._sizes.append((classes, _log_sizes(value)))
        return value

    def factors(self, strength: float) -> Tensor:
        """Return the factor of every class, [classes], 1 for those that stay."""
        roots = torch.tensor([self._root(index) for index in range(len(self._parents))])
        total, count = (torch.zeros(len(roots), dtype=torch.float64) for _ in range(2))
        for classes, sizes in self._sizes:
            index, known = roots[torch.tensor(classes)], sizes.isfinite()
            total.index_add_(0, index[known], sizes[known])
            count.index_add_(0, index[known], torch.ones(int(known.sum()), dtype=torch.float64))
        factors = torch.exp(-strength * total / count.clamp_min(1))
        factors = factors.clamp(1 / LARGEST_FACTOR, LARGEST_FACTOR)
        factors[[_NOTHING, _FIXED]] = 1
        by_class = factors[roots]
        for node, move in self.moves.items():
            columns = None if move.columns is None else roots[move.columns]
            self.moves[node] = _Move(roots[move.rows], columns)
        return by_class

    def _follow(self, n: fx.Node, value: Any) -> list[int] | None:
        """Return the classes of the channels of `n`; None if it has none, or is no function that keeps them."""
        if n.op != "call_function" or not has_channels(value):
            return None
        op = n.meta.get("onnx_op")
        if n in self.layers:
            return self._enter(n, value.shape[1])
        if op in _KEEPERS:
            return self._classes.get(n.all_input_nodes[0])
        if op == "Add":
            return self._add(n, value)
        return self._moved(n, value) if op in _MOVERS else None

    def _enter(self, n: fx.Node, count: int) -> list[int]:
        """Return new classes for the output of a layer, and note which ones it reads."""
        layer, source = self.layers[n], n.all_input_nodes[0]
        read = self._classes.get(source)
        width = layer.weight.shape[0 if layer.is_depthwise else 1]
        if (
            read is not None and len(read) != width
        ):  # grouped, or several outputs a depthwise channel
            self._unite(read, _FIXED)
            read = None
        made = list(range(len(self._parents), len(self._parents) + count))
        self._parents += made
        columns = None if read is None else torch.tensor(read)
        self.moves[n] = _Move(torch.tensor(made), columns)
        return made

    def _add(self, n: fx.Node, value: Tensor) -> list[int] | None:
        first, second = n.all_input_nodes[0], n.all_input_nodes[-1]
        a, b = self._classes.get(first), self._classes.get(second)
        values = [self.env[first], self.env[second]]
        fits = all(item.ndim == value.ndim and item.shape[1] == value.shape[1] for item in values)
        if a is None or b is None or len(n.all_input_nodes) != 2 or not fits:
            return None
        for one, other in zip(a, b, strict=True):
            if _NOTHING not in {one, other}:
                self._unite([one], other)
        return [other if one == _NOTHING else one for one, other in zip(a, b, strict=True)]

    def _moved(self, n: fx.Node, value: Tensor) -> list[int] | None:
        """Return where classes have gone: the function is run on the numbers of the classes."""

        def numbered(source: fx.Node) -> Any:
            held = self.env[source]
            if not has_channels(held) or source.op == "get_attr":
                return held
            classes = self._classes.get(source, [_FIXED] * held.shape[1])
            numbers = torch.tensor(classes, dtype=torch.float64, device=held.device)
            return along(numbers, held, 1).expand(held.shape)

        def emptied(source: fx.Node) -> Any:
            held = numbered(source)
            return torch.zeros_like(held) if held is not self.env[source] else held

        run = [fx.node.map_arg((n.args, n.kwargs), fill) for fill in (numbered, emptied)]
        found, empty = (self.call_function(n.target, args, kwargs) for args, kwargs in run)
        rows = found.movedim(1, 0).flatten(1)
        classes = rows.amax(1)
        is_whole = ((rows == classes[:, None]) | (rows == _NOTHING)).all()
        if empty.any() or not is_whole or found.shape != value.shape:
            return None
        return [int(number) for number in classes]

    def _unite(self, classes: Sequence[int], other: int) -> None:
        for index in classes:
            if index != _NOTHING:
                roots = sorted((self._root(index), self._root(other)))
                self._parents[roots[1]] = roots[0]

    def _root(self, index: int) -> int:
        while self._parents[index] != index:
            self._parents[index] = self._parents[self._parents[index]]
            index = self._parents[index]
        return index


def _log_sizes(value: Tensor) -> Tensor:
    """Return the logarithm of the largest absolute value of every channel, by the largest one of them, [C], float64.

    It is NaN for a channel without values.
    """
    sizes = channel_sizes(value)
    return torch.where(sizes > 0, (sizes / sizes.max()).log(), torch.nan).cpu()
