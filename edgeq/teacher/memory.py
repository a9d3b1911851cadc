"""How much memory one sample takes when it goes through the teacher with gradients."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from edgeq.teacher.teacher import Teacher, with_outputs

# What the activations of one batch may take. The loops keep about three times as much alive (gradients, and the
# student's own activations beside the teacher's), which leaves room on a machine of 16 GiB. It is a constant, not a
# share of what is free now, so that two machines make the same samples.
ACTIVATION_BYTES = 4 << 30


def activation_bytes(teacher: Teacher, sample: Sequence[Tensor]) -> int:
    """Return the bytes of all activations of one sample.

    Args:
        teacher: any.
        sample: one tensor [1, ...] an input.
    """
    inputs = set(teacher.inputs)
    names = [name for name in teacher.fx_node_of if name not in inputs]
    with torch.no_grad():
        _, values = with_outputs(teacher, names)(*sample)
    constants = {id(value) for value in teacher.module.state_dict(keep_vars=True).values()}
    tensors = {id(value): value for value in values if isinstance(value, Tensor)}
    return sum(
        value.numel() * value.element_size()
        for key, value in tensors.items()
        if key not in constants
    )


def fitting_batch(teacher: Teacher, sample: Sequence[Tensor], wished: int) -> int:
    """Return the largest batch up to `wished` whose activations fit `ACTIVATION_BYTES`, at least 1.

    Args:
        teacher: any.
        sample: one tensor [1, ...] an input.
        wished: what the recipe asks for.
    """
    return max(1, min(wished, ACTIVATION_BYTES // max(1, activation_bytes(teacher, sample))))
