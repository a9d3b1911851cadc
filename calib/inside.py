"""Statistics inside the network: where a tensor is made, and its gradient is at hand, both find it in the cache.

After the whole network it has to come from memory again. Entry: `measure_inside`.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx

from calib.statistics import Moments, find_moments, has_positions, measure, moments_gradient
from edgeq.teacher.normalisation import batch_normalization
from edgeq.teacher.teacher import place_behind


def measure_inside(module: fx.GraphModule, count: int) -> None:
    """Let a module of `teacher.with_outputs` give the `Moments` of its first `count` captured tensors in their place.

    Where one BatchNormalization reads the tensor, one node gives its output and the moments.
    """
    graph = module.graph
    (end,) = [node for node in graph.nodes if node.op == "output"]
    moments = []
    for index in range(count):
        # Looked up anew: it may be a BatchNormalization, which the turn of what it reads has replaced.
        node = end.args[0][1][index]
        readers = [user for user in node.users if user.target is batch_normalization]
        if len(readers) != 1:
            with graph.inserting_after(place_behind(node)):
                moments.append(graph.call_function(measure, (node,)))
            continue
        (reader,) = readers
        with graph.inserting_before(reader):
            both = graph.call_function(normalise_and_measure, reader.args, reader.kwargs)
            output, found = (graph.call_function(operator.getitem, (both, i)) for i in range(2))
        reader.replace_all_uses_with(output)
        graph.erase_node(reader)
        moments.append(found)
    outputs, captured = end.args[0]
    end.args = ((outputs, (*moments, *captured[count:])),)
    graph.lint()
    module.recompile()


def normalise_and_measure(
    x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, var: Tensor, **figures: Any
) -> tuple[Tensor, Moments]:
    """Return what `batch_normalization` makes of x [N, C, *positions], and the moments of x."""
    if not has_positions(x) or scale.requires_grad or bias.requires_grad:
        return batch_normalization(x, scale, bias, mean, var, **figures), measure(x)
    apply: Callable[..., tuple[Tensor, ...]] = _Normalised.apply
    y, *found = apply(x, scale, bias, mean, var, figures.get("epsilon", 1e-5))
    names = ("mean", "var", "sample_mean", "sample_var")
    return y, Moments(**dict(zip(names, found, strict=True)))


class _Normalised(torch.autograd.Function):
    """BatchNormalization of constant parameters, and the moments of what enters it.

    The two gradients are added where that of the output is multiplied: one pass over the tensor in the place of two.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, var: Tensor, epsilon: float
    ) -> tuple[Tensor, ...]:
        found = find_moments(x)
        ctx.save_for_backward(x, found[0], found[2], scale, var)
        ctx.epsilon = epsilon
        return F.batch_norm(x, mean, var, scale, bias, training=False, eps=epsilon), *found

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None, None, None]:
        by_output, *by_moments = grads
        x, mean, sample_mean, scale, var = ctx.saved_tensors
        by_x = moments_gradient(by_moments, x, mean, sample_mean)
        slope = scale * (var + ctx.epsilon).rsqrt()
        shaped = slope.view(-1, *[1] * (x.ndim - 2)).to(by_output.dtype)
        return by_x.addcmul_(by_output, shaped), None, None, None, None, None
