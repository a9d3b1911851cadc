"""A teacher of a file with a fixed batch size, made to run any batch size.

Exporters that are given a fixed batch write it into constant shapes: a Reshape to [1, 512], a class token that is
joined to a batch of one. The file that ships keeps it; synthesis and training need larger batches. Entry: `free_batch`.
A file without a batch axis is `edgeq.teacher.add_batch`'s.
Whether every sample still gets what it gets alone is for `edgeq.teacher.proof.require_any_batch` to say.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx

from edgeq.core.specs import InputSpec
from edgeq.teacher.add_batch import add_batch
from edgeq.teacher.converters import CONVERSION_FAULTS
from edgeq.teacher.teacher import Teacher

# The larger batch, in batches of the file, in which every axis that holds the batch shows.
_GROWTH = 3

Shape = tuple[int, ...]


def free_batch(teacher: Teacher, inputs: Sequence[InputSpec]) -> Teacher:
    """Return a teacher that runs any batch size, whatever its file has; the one passed in is not changed.

    1. Reshape to a constant shape, of data in which one axis grows with the batch: the axis of the result that holds
       that axis becomes -1, and every other axis gets its size in the file.
    2. Expand of such data: the entry of the axis becomes 1, which keeps the size of the data.
    3. Concat of such data with data that do not grow: these are repeated.
    4. Resize of such data to constant sizes, which keep the axis: it is left out of the axes that are resized.
    5. Left alone: everything else; where a node then refuses a larger batch, so does the teacher that is returned.

    Args:
        teacher: of the file.
        inputs: one a graph input; with a dynamic batch axis the teacher is returned as it is, without any it gets one.

    Raises:
        ModelError: as `add_batch`.
    """
    fixed = [spec.batch for spec in inputs if spec.batch is not None]
    if not fixed:
        return teacher
    batch = fixed[0]
    if batch == 0:
        return add_batch(teacher, inputs)
    freed = teacher.copy()
    ordered = {spec.name: spec for spec in inputs}
    specs = [ordered[name] for name in teacher.inputs]
    before = _Shapes(freed.module)
    with torch.no_grad():
        try:
            before.run(*_zeros(specs, batch))
            _Freer(freed.module, before.shapes, batch).run(*_zeros(specs, _GROWTH * batch))
        except CONVERSION_FAULTS:
            pass  # a run of the teacher names the node, and says why it matters
    freed.module.recompile()
    return freed


def _zeros(specs: Sequence[InputSpec], batch: int) -> list[Tensor]:
    return [torch.zeros(batch, *spec.shape, dtype=getattr(torch, spec.dtype)) for spec in specs]


class _Shapes(fx.Interpreter):
    """Runs a module and remembers the shape of every tensor, by fx node."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.shapes: dict[str, Shape] = {}

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if isinstance(result, Tensor):
            self.shapes[n.name] = tuple(result.shape)
        return result


class _Freer(_Shapes):
    """Runs a module with a larger batch and mends each node, before it runs, whose arguments hold the smaller one.

    Row-major order survives a Reshape, so the batch is followed by its stride: the number of elements behind it. Where
    it was merged into an axis, `_inner` has the part of that axis which is behind it.
    """

    def __init__(self, module: fx.GraphModule, before: dict[str, Shape], batch: int) -> None:
        super().__init__(module)
        self._before = before
        self._batch = batch
        self._inner: dict[str, int] = {}

    def run_node(self, n: fx.Node) -> Any:
        kind = n.meta.get("onnx_op")
        self._inner[n.name] = next(
            (
                self._inner[item.name]
                for item in n.all_input_nodes
                if self._growing(item) is not None
            ),
            1,
        )
        if kind == "Concat":
            if len({self._growing(item) for item in n.all_input_nodes}) > 1:
                n.target = _concat_repeated
        elif kind in {"Reshape", "Expand"} and isinstance(n.args[1], tuple):
            self._mend_shape(n, kind)
        elif kind == "Resize" and len(n.args) > 3 and isinstance(n.args[3], tuple):
            self._mend_sizes(n, n.args[3])
        return super().run_node(n)

    def _mend_shape(self, node: fx.Node, kind: str) -> None:
        source = node.all_input_nodes[0]
        axis = self._growing(source)
        if axis is None:
            return
        data, result = self._before[source.name], self._before[node.name]
        if kind == "Expand":
            where, free = axis + len(result) - len(data), 1
        else:
            stride = math.prod(data[axis + 1 :]) * self._inner[source.name]
            where, free = _axis_of(self._batch, stride, result), -1
            self._inner[node.name] = stride // math.prod(result[where + 1 :]) or 1
        node.update_arg(1, (*result[:where], free, *result[where + 1 :]))

    def _mend_sizes(self, node: fx.Node, sizes: tuple[Any, ...]) -> None:
        source = node.all_input_nodes[0]
        growing, before = self._growing(source), self._before[source.name]
        given: Any = node.kwargs.get("axes") or range(len(before))
        axes = [axis % len(before) for axis in given]
        if growing is None or growing not in axes or sizes[axes.index(growing)] != before[growing]:
            return
        kept = {axis: size for axis, size in zip(axes, sizes, strict=True) if axis != growing}
        is_plain = (
            node.kwargs.get("keep_aspect_ratio_policy", "stretch") == "stretch"
            and node.kwargs.get("coordinate_transformation_mode") != "tf_crop_and_resize"
        )
        if is_plain and kept:
            node.update_arg(3, tuple(kept.values()))
            node.update_kwarg("axes", tuple(kept))

    def _growing(self, node: fx.Node) -> int | None:
        """Return the first axis of a tensor that is larger in this run than in the one before."""
        if node.name not in self._before:
            return None
        pairs = zip(self.shapes[node.name], self._before[node.name], strict=True)
        return next((axis for axis, (now, before) in enumerate(pairs) if now != before), None)


def _axis_of(batch: int, stride: int, shape: Shape) -> int:
    """Return the axis of `shape` that holds a batch with `stride` elements behind each of its places.

    The first that fits of: an axis of its own, the outer part of an axis that is not the last, any part of an axis.
    For a batch of one, sizes alone do not tell them apart.
    """
    behind = [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
    spans = list(enumerate(zip(behind, shape, strict=True)))
    own = [axis for axis, (step, size) in spans if step == stride and size == batch]
    outer = [axis for axis, (step, size) in spans[:-1] if step * size == stride * batch]
    any_part = [
        axis for axis, (step, size) in spans if step <= stride and stride * batch <= step * size
    ]
    return next(iter([*own, *outer, *any_part, 0]))


def _concat_repeated(*xs: Tensor, axis: int) -> Tensor:
    """Return the inputs joined along `axis`, after an axis of size 1 is repeated where another input has more."""
    rank = xs[0].dim()
    common = [max(x.shape[index] for x in xs) for index in range(rank)]
    grown = [
        x.expand(
            [x.shape[index] if index == axis % rank else common[index] for index in range(rank)]
        )
        for x in xs
    ]
    return torch.cat(grown, axis)
