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
        max_abs: the largest absolute difference so far, of finite values.
        broken: values of which at least one is NaN or infinite, and the other is not the same; `add_any` counts them.
        non_finite: values of the reference that are NaN or infinite; `add_any` counts them.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.max_abs = 0.0
        self.broken = self.non_finite = 0
        self._signal = self._power = self._product = self._error = 0.0

    def add(self, reference: NDArray[np.generic], measured: NDArray[np.generic]) -> None:
        """Take in one batch.

        Raises:
            InputError: if the shapes differ.
            NumericsError: if a value is NaN or infinite.
        """
        a, b = self._as_vectors(reference, measured)
        if not (np.isfinite(a).all() and np.isfinite(b).all()):
            raise NumericsError(
                f"'{self.name}' has NaN or infinity",
                why="no distance to it can be measured",
                mend="look for NaN, infinity or an overflow in the model's weights and in the sample set",
            )
        self._accumulate(a, b)

    def add_any(self, reference: NDArray[np.generic], measured: NDArray[np.generic]) -> None:
        """Take in one batch that may have NaN or infinity: an attention mask has, and so has an overflow.

        Where both have the same, they agree; where they do not, the SQNR is that of no agreement at all.

        Raises:
            InputError: if the shapes differ.
        """
        a, b = self._as_vectors(reference, measured)
        odd = ~(np.isfinite(a) & np.isfinite(b))
        if odd.any():
            is_same = (a == b) | (np.isnan(a) & np.isnan(b))
            self.broken += int((odd & ~is_same).sum())
            self.non_finite += int((~np.isfinite(a)).sum())
            a[odd] = b[odd] = 0
        self._accumulate(a, b)

    def _as_vectors(
        self, reference: NDArray[np.generic], measured: NDArray[np.generic]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        if reference.shape != measured.shape:
            raise InputError(
                f"'{self.name}' has two shapes, {list(reference.shape)} and {list(measured.shape)}",
                why="tensors are compared element by element",
                mend="compare models that were made from the same network",
            )
        return reference.astype(np.float64).ravel(), measured.astype(np.float64).ravel()

    def _accumulate(self, a: NDArray[np.float64], b: NDArray[np.float64]) -> None:
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
        if self.broken:
            return -SQNR_LIMIT_DB
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
