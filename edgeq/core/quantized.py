"""What the writers are given: scales, integer weights and biases of a planned model, or packed matrices.

Numpy only.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from edgeq.core.errors import NumericsError
from edgeq.core.numerics import dequantize
from edgeq.core.plan import QuantPlan, Role

Scalar = TypeVar("Scalar", bound=np.generic)


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizedValues:
    """The numbers that fill a `QuantPlan`.

    Attributes:
        scales: by tensor name, for every quantized decision of the plan (a shared tensor has the bits of its owner):
            [] float32 per tensor, [C] float32 per channel.
        codes: by weight tensor name: int8, shape of the weight, within the decision's grid.
        floats: by tensor name: trained float32 tensors that stay float (biases), same shape as in the model.
        channel_factors: by tensor name: [C] float32, by how much equalization has multiplied its channels (axis 1), so
            that it is no longer the tensor of this name in the float model; others are left out.
    """

    scales: dict[str, NDArray[np.float32]]
    codes: dict[str, NDArray[np.int8]]
    floats: dict[str, NDArray[np.float32]]
    channel_factors: dict[str, NDArray[np.float32]] = field(default_factory=dict)

    def require_complete(self, plan: QuantPlan) -> None:
        """Check that every decision has its numbers and that they are legal.

        Raises:
            NumericsError: names the first tensor whose scale or codes are missing, not positive, or off the grid.
        """
        for decision in plan.quantized():
            scale = self.scales.get(decision.tensor)
            if scale is None or not np.all(np.isfinite(scale)) or np.any(scale <= 0):
                raise _illegal(decision.tensor, "has no positive, finite scale")
            if decision.grid is None or decision.role is not Role.WEIGHT:
                continue
            codes = self.codes.get(decision.tensor)
            if codes is None:
                raise _illegal(decision.tensor, "has no integer weights")
            if codes.size and (codes.min() < decision.grid.low or codes.max() > decision.grid.high):
                raise _illegal(decision.tensor, f"has codes off its grid {decision.grid}")


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedMatrix:
    """A weight [K, N] as 4-bit codes with one scale for each block of `block` of its K inputs, and rows in float.

    Attributes:
        codes: [K, N], int8, -7..7; 0 in the rows that are kept in float.
        scale: [K / block, N], float32, > 0.
        rows: [R], int64, the inputs whose weights are kept in float, in rising order; empty where none are.
        floats: [R, N], float32, these weights.
    """

    codes: NDArray[np.int8]
    scale: NDArray[np.float32]
    rows: NDArray[np.int64]
    floats: NDArray[np.float32]

    @property
    def block(self) -> int:
        """Return how many inputs have one scale."""
        return len(self.codes) // len(self.scale)

    def dequantized(self) -> NDArray[np.float32]:
        """Return codes * scale, [K, N]: what DequantizeLinear gives."""
        rows = dequantize(to_rows(self.codes, self.block), self.scale.reshape(-1))
        return from_rows(rows, self.codes.shape[1])

    def weight(self) -> NDArray[np.float32]:
        """Return the weight in effect, [K, N]: the dequantized one with the rows that are kept in float."""
        weight = self.dequantized()
        weight[self.rows] = self.floats
        return weight


def to_rows(matrix: NDArray[Scalar], block: int) -> NDArray[Scalar]:
    """Return a matrix [K, N] with each of its blocks in a row, [K / block * N, block].

    Raises:
        NumericsError: if `block` does not divide K.
    """
    size, columns = matrix.shape
    if block < 1 or size % block:
        raise NumericsError(
            f"blocks of {block} do not divide {size} inputs",
            why="every block has a scale of its own, and TensorRT takes no shorter last block",
            mend="choose a block that divides the size",
        )
    return np.ascontiguousarray(matrix.reshape(-1, block, columns).swapaxes(1, 2)).reshape(
        -1, block
    )


def from_rows(rows: NDArray[Scalar], columns: int) -> NDArray[Scalar]:
    """Return the matrix [K, `columns`] whose blocks are `rows`; undoes `to_rows`."""
    blocks = rows.reshape(-1, columns, rows.shape[1]).swapaxes(1, 2)
    return np.ascontiguousarray(blocks).reshape(-1, columns)


def _illegal(tensor: str, what: str) -> NumericsError:
    return NumericsError(
        f"tensor '{tensor}' {what}",
        why="the Q/DQ model would not load, or would compute something else",
        mend="report this with the manifest of the build; meanwhile try another --seed",
    )
