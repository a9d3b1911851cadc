"""How far one tensor is from another, added up batch by batch in float64."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from edgeq.core.errors import InputError, NumericsError

# Beyond what float32 resolves (24 bits are 144 dB); equal tensors get it, so that JSON needs no infinity.
SQNR_LIMIT_DB = 200.0


class Difference:
    """Running comparison of the tensor `name` with its reference.

    Attributes:
        max_abs: the largest absolute difference so far.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.max_abs = 0.0
        self._signal = self._power = self._product = self._error = 0.0

    def add(self, reference: NDArray[np.generic], measured: NDArray[np.generic]) -> None:
        """Take in one batch.

        Raises:
            InputError: if the shapes differ.
            NumericsError: if a value is NaN or infinite.
        """
        if reference.shape != measured.shape:
            raise InputError(
                f"'{self.name}' has two shapes, {list(reference.shape)} and {list(measured.shape)}",
                why="tensors are compared element by element",
                mend="compare models that were made from the same network",
            )
        a, b = reference.astype(np.float64).ravel(), measured.astype(np.float64).ravel()
        if not (np.isfinite(a).all() and np.isfinite(b).all()):
            raise NumericsError(
                f"'{self.name}' has NaN or infinity",
                why="no distance to it can be measured",
                mend="look for NaN, infinity or an overflow in the model's weights and in the sample set",
            )
        error = a - b
        self.max_abs = max(self.max_abs, float(np.abs(error).max(initial=0)))
        self._error += float(error @ error)
        self._signal += float(a @ a)
        self._power += float(b @ b)
        self._product += float(a @ b)

    @property
    def sqnr_db(self) -> float:
        """Return 10 log10(signal power / error power), within -200..200 dB; equal tensors have 200.

        To a ten-thousandth of a dB: further digits depend on the order in which threads add.
        """
        if self._error == 0:
            return SQNR_LIMIT_DB
        if self._signal == 0:
            return -SQNR_LIMIT_DB
        ratio_db = 10 * (math.log10(self._signal) - math.log10(self._error))
        return round(min(SQNR_LIMIT_DB, max(-SQNR_LIMIT_DB, ratio_db)), 4)

    @property
    def cosine(self) -> float:
        """Return the cosine of the angle between the two, -1..1; 1 if both are zero, 0 if one is."""
        if self._signal == 0 or self._power == 0:
            return float(self._signal == self._power)
        cosine = self._product / math.sqrt(self._signal) / math.sqrt(self._power)
        return min(1.0, max(-1.0, cosine))
