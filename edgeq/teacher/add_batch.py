"""A teacher of a file without a batch axis, made to run batches: every sample goes through the network on its own.

The tensors of such a teacher have the samples along axis 0, as `core.samples.join_results` lays out what the file gives
sample by sample: where the network works on a batch of one, that axis is the samples'. Entry: `add_batch`.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from edgeq.core.errors import ModelError
from edgeq.core.specs import InputSpec
from edgeq.teacher.converters import CONVERSION_FAULTS
from edgeq.teacher.teacher import Teacher

_SHAPES = {"Shape", "Size"}
# How many samples show whether torch can compute a node for all samples at once.
_PROBES = 2


def add_batch(teacher: Teacher, inputs: Sequence[InputSpec]) -> Teacher:
    """Return a teacher of samples [N, *shape]; the one passed in is not changed.

    1. A node that reads activations computes them for every sample on its own: at once by `torch.vmap`, or one after
       the other where torch has no such form of the operator.
    2. Left alone: nodes of constants, and Shape and Size, which are the same for every sample.

    Args:
        teacher: of the file.
        inputs: one a graph input, none with a batch axis.

    Raises:
        ModelError: names the node that torch cannot compute.
    """
    batched = teacher.copy()
    specs = {spec.name: spec for spec in inputs}
    zeros = [
        torch.zeros(specs[name].shape, dtype=getattr(torch, specs[name].dtype))
        for name in teacher.inputs
    ]
    with torch.no_grad():
        _Batcher(batched.module).run(*zeros)
    batched.module.graph.lint()
    batched.module.recompile()
    return batched


class PerSample(nn.Module):
    """One node's function, for every sample.

    Attributes:
        in_turn: compute the samples one after the other.
    """

    def __init__(
        self, function: Callable[..., Any], moving: Sequence[bool | None], result: Any
    ) -> None:
        """Wrap `function`.

        Args:
            function: of one sample.
            moving: by position of the argument: None for what is no activation, else `_is_batch_of_one` of it.
            result: what the function gives for one sample.
        """
        super().__init__()
        self.in_turn = False
        self._function = function
        self._moving = {index: joins for index, joins in enumerate(moving) if joins is not None}
        self._gives_tuple = isinstance(result, tuple | list)
        self._joins = [_is_batch_of_one(y) for y in (result if self._gives_tuple else [result])]

    def forward(self, *args: Any, **keywords: Any) -> Any:
        """Return the result, or the tuple of results, with the samples along axis 0."""
        samples = [
            args[index].unsqueeze(1) if joins else args[index]
            for index, joins in self._moving.items()
        ]

        def compute(*own: Tensor) -> tuple[Tensor, ...]:
            full = list(args)
            for index, value in zip(self._moving, own, strict=True):
                full[index] = value
            result = self._function(*full, **keywords)
            return tuple(result) if self._gives_tuple else (result,)

        if self.in_turn:
            rows = [compute(*own) for own in zip(*samples, strict=True)]
            results = tuple(torch.stack(parts) for parts in zip(*rows, strict=True))
        else:
            results = torch.vmap(compute)(*samples)
        found = tuple(
            y.squeeze(1) if joins else y for y, joins in zip(results, self._joins, strict=True)
        )
        return found if self._gives_tuple else found[0]


class _Batcher(fx.Interpreter):
    """Runs one sample, and gives every node that reads activations its form for many."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        # By fx node that holds an activation: whether the samples take the place of its batch of one.
        self._moving: dict[fx.Node, bool] = {}

    def run_node(self, n: fx.Node) -> Any:
        try:
            result = super().run_node(n)
            if n.op == "placeholder":
                self._moving[n] = False
            elif n.op == "call_function" and any(
                item in self._moving for item in n.all_input_nodes
            ):
                self._change(n, result)
        except CONVERSION_FAULTS as error:
            raise ModelError(
                f"the teacher cannot run: {error}",
                why="a node computes something that its torch counterpart refuses",
                mend="check the model with onnx.checker; if it runs in ONNX Runtime, report this node",
                node=n.meta.get("onnx_node"),
            ) from error
        return result

    def _change(self, node: fx.Node, result: Any) -> None:
        if node.meta.get("onnx_op") in _SHAPES:
            self._read_first_sample(node)
            return
        self._moving[node] = _is_batch_of_one(result)
        if node.target is operator.getitem:
            return
        moving = [
            self._moving.get(item) if isinstance(item, fx.Node) else None for item in node.args
        ]
        assert callable(node.target)
        changed = PerSample(node.target, moving, result)
        changed.in_turn = not self._runs_at_once(changed, node, moving)
        name = f"per_sample_{node.name}"
        self.module.add_module(name, changed)
        node.op, node.target = "call_module", name

    def _runs_at_once(
        self, changed: PerSample, node: fx.Node, moving: Sequence[bool | None]
    ) -> bool:
        args, keywords = self.fetch_args_kwargs_from_env(node)
        shown = [
            arg
            if joins is None
            else torch.cat([arg] * _PROBES)
            if joins
            else torch.stack([arg] * _PROBES)
            for arg, joins in zip(args, moving, strict=True)
        ]
        try:
            changed(*shown, **keywords)
        except CONVERSION_FAULTS:
            return False
        return True

    def _read_first_sample(self, node: fx.Node) -> None:
        (source,) = node.all_input_nodes
        first = slice(0, 1) if self._moving[source] else 0
        with node.graph.inserting_before(node):
            sample = node.graph.call_function(operator.getitem, (source, first))
        node.update_arg(0, sample)


def _is_batch_of_one(result: Any) -> bool:
    return isinstance(result, Tensor) and result.ndim > 1 and result.shape[0] == 1
