"""The state of an optimiser with what it moves, as arrays by name, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn


def moved_by(optimizer: torch.optim.Optimizer) -> list[nn.Parameter]:
    """Return the parameters of all groups, in their order."""
    return [item for group in optimizer.param_groups for item in group["params"]]


def optimizer_state(optimizer: torch.optim.Optimizer) -> dict[str, NDArray[Any]]:
    """Return the parameters and their moments, copies: "0" is the first parameter, "0/exp_avg" a moment of it."""
    state: dict[str, Tensor] = {}
    for index, parameter in enumerate(moved_by(optimizer)):
        state[str(index)] = parameter
        for key, moment in optimizer.state[parameter].items():
            state[f"{index}/{key}"] = moment
    return {name: x.detach().cpu().clone().numpy() for name, x in state.items()}


def restore_optimizer(optimizer: torch.optim.Optimizer, state: Mapping[str, NDArray[Any]]) -> None:
    """Set parameters and moments to what `optimizer_state` returned of an optimiser over the like."""
    found = {name: torch.from_numpy(x) for name, x in state.items()}
    with torch.no_grad():
        for index, parameter in enumerate(moved_by(optimizer)):
            parameter.copy_(found[str(index)])
            begin = f"{index}/"
            optimizer.state[parameter] = {
                name.removeprefix(begin): x.to(parameter.device)
                for name, x in found.items()
                if name.startswith(begin)
            }
