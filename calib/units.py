"""Synthesis in a standard unit: values of about -2..2, whatever the model's own are.

The figures of a recipe (rate, noise, filter) hold for such values. Pixels of 0..255 or 0..1, decibels or measurements
are therefore optimised in the standard unit, and a step at the front of the teacher brings them into the model's.
Entry: `standardise`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgeq.core.specs import InputSpec, Layout
from edgeq.teacher.teacher import Teacher

# Pictures whose black and white are nearer or farther apart than this in the model's own unit are brought into the
# standard one, where they are 4 apart. Starts of N(0, 1) and terms that aim at it have most values of pictures of 0..1
# at black or white.
NARROWEST, WIDEST = 2.5, 16.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """An input, and x = centre + scale * z between its own values x and standard ones z; both [1, *C, ...] or None.

    Attributes:
        spec: of the file.
        standard: the same in standard values.
    """

    spec: InputSpec
    standard: InputSpec
    centre: Tensor | None = None
    scale: Tensor | None = None

    def restore(self, z: Tensor) -> NDArray[Any]:
        """Return what the file takes: legal values of its type."""
        if self.centre is None or self.scale is None:
            return np.ascontiguousarray(z.numpy(), dtype=self.spec.dtype)
        low, high = legal_box(self.spec)
        x = torch.maximum(torch.minimum(self.centre + self.scale * z, high), low)
        if self.spec.dtype == "uint8":
            x = x.round()
        return np.ascontiguousarray(x.numpy().astype(self.spec.dtype))


def standardise(teacher: Teacher, inputs: Sequence[InputSpec]) -> tuple[Teacher, list[Unit]]:
    """Return a teacher that takes standard float values, and the units of its inputs.

    Nothing is changed where the model's own unit is the standard one already.
    """
    units = [make_unit(spec) for spec in inputs]
    if all(unit.centre is None for unit in units):
        return teacher, units
    changed = teacher.copy()
    graph = changed.module.graph
    places = {node.name: node for node in graph.nodes if node.op == "placeholder"}
    fx_node_of = dict(changed.fx_node_of)
    for index, unit in enumerate(units):
        if unit.centre is None or unit.scale is None:
            continue
        place = places[teacher.fx_node_of[unit.spec.name]]
        changed.module.register_buffer(f"unit_centre_{index}", unit.centre)
        changed.module.register_buffer(f"unit_scale_{index}", unit.scale)
        last = [node for node in graph.nodes if node.op == "placeholder"][-1]
        with graph.inserting_after(last):
            centre = graph.get_attr(f"unit_centre_{index}")
        with graph.inserting_after(centre):
            scale = graph.get_attr(f"unit_scale_{index}")
        with graph.inserting_after(scale):
            own = graph.call_function(torch.addcmul, (centre, scale, place))
        place.replace_all_uses_with(own, delete_user_cb=lambda user, own=own: user is not own)
        fx_node_of[unit.spec.name] = own.name  # statistics of the input are in the model's unit
    graph.lint()
    changed.module.recompile()
    return dataclasses.replace(changed, fx_node_of=fx_node_of), units


def legal_box(spec: InputSpec) -> tuple[Tensor, Tensor]:
    """Return the lowest and highest legal values, shaped to broadcast over [N, *shape]."""
    return _along_channels(spec, spec.low), _along_channels(spec, spec.high)


def make_unit(spec: InputSpec) -> Unit:
    """Return the standard unit of an input."""
    mean, std = torch.tensor(spec.mean), torch.tensor(spec.std)
    if spec.layout is Layout.OTHER:
        centre, scale = mean, std
        if spec.mean == (0.0,) and spec.std == (1.0,):
            return Unit(spec=spec, standard=spec)
    elif not NARROWEST < float((1 / std).max()) <= WIDEST:
        centre, scale = (0.5 - mean) / std, 0.25 / std
    else:
        return Unit(spec=spec, standard=spec)
    low = ((torch.tensor(spec.low) - centre) / scale).tolist()
    high = ((torch.tensor(spec.high) - centre) / scale).tolist()
    is_picture = spec.layout is not Layout.OTHER
    standard = dataclasses.replace(
        spec,
        dtype="float32",
        mean=(0.5 if is_picture else 0.0,) * len(spec.mean),
        std=(0.25 if is_picture else 1.0,) * len(spec.std),
        low=tuple(low),
        high=tuple(high),
    )
    return Unit(
        spec=spec,
        standard=standard,
        centre=_along_channels(spec, centre.tolist()),
        scale=_along_channels(spec, scale.tolist()),
    )


def _along_channels(spec: InputSpec, values: Sequence[float]) -> Tensor:
    shape = [1] * (1 + len(spec.shape))
    shape[-1 if spec.layout is Layout.NHWC else 1] = -1
    return torch.tensor(values).view(shape)
