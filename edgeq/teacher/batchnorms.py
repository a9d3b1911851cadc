"""The BatchNorms of a PyTorch state dict, gathered by their number of channels K."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeq.teacher.folded import precision

Floats = NDArray[np.float64]

# A state dict does not hold the epsilon: PyTorch's 1e-5; 1e-3 of TensorFlow and what is ported from it; others.
EPSILONS = (1e-5, 1e-3, 1e-4, 1e-6, 2e-5, 1e-2)


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchNorms:
    """All BatchNorms of K channels.

    Attributes:
        names: [B], what their tensors' names have before the last dot.
        gamma, beta, mean, var: [B, K].
        factor: [E, B, K], gamma / sqrt(var + eps) for each of `EPSILONS`.
        unit: rounding error of the coarsest of their types, see `folded.precision`.
    """

    names: tuple[str, ...]
    gamma: Floats
    beta: Floats
    mean: Floats
    var: Floats
    factor: Floats
    unit: float


def read_batchnorms(state_dict: Mapping[str, NDArray[Any]]) -> dict[int, BatchNorms]:
    """Return the BatchNorms by number of channels: wherever running_mean and running_var share a name.

    A BatchNorm without weight and bias (`affine=False`) gets 1 and 0. What is no four vectors of one length is no
    BatchNorm and left out.
    """
    groups: dict[int, dict[str, list[NDArray[Any]]]] = defaultdict(dict)
    for name, mean in state_dict.items():
        dot, last = name[: name.rfind(".") + 1], name[name.rfind(".") + 1 :]
        var = state_dict.get(f"{dot}running_var")
        if last != "running_mean" or mean.ndim != 1 or var is None:
            continue
        gamma = state_dict.get(f"{dot}weight", np.ones_like(mean))
        beta = state_dict.get(f"{dot}bias", np.zeros_like(mean))
        if gamma.shape == beta.shape == var.shape == mean.shape:
            groups[mean.size][dot.removesuffix(".")] = [gamma, beta, mean, var]
    return {channels: _stack(named) for channels, named in groups.items()}


def _stack(named: Mapping[str, list[NDArray[Any]]]) -> BatchNorms:
    values = np.array([np.array(item, np.float64) for item in named.values()])
    gamma, beta, mean, var = values.swapaxes(0, 1)
    with np.errstate(divide="ignore", invalid="ignore"):  # what is not finite matches nothing
        factor = np.stack([gamma / np.sqrt(var + eps) for eps in EPSILONS])
    return BatchNorms(
        names=tuple(named),
        gamma=gamma,
        beta=beta,
        mean=mean,
        var=var,
        factor=factor,
        unit=max(precision(array.dtype)[0] for item in named.values() for array in item),
    )
