"""What training hands to the writer: the scales, integer weights and biases of a planned model. Numpy only."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeq.core.errors import NumericsError
from edgeq.core.plan import QuantPlan, Role


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizedValues:
    """The numbers that fill a `QuantPlan`.

    Attributes:
        scales: by tensor name, for every quantized decision of the plan (a shared tensor has the bits of its owner):
            [] float32 per tensor, [C] float32 per channel.
        codes: by weight tensor name: int8, shape of the weight, within the decision's grid.
        floats: by tensor name: trained float32 tensors that stay float (biases), same shape as in the model.
    """

    scales: dict[str, NDArray[np.float32]]
    codes: dict[str, NDArray[np.int8]]
    floats: dict[str, NDArray[np.float32]]

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


def _illegal(tensor: str, what: str) -> NumericsError:
    return NumericsError(
        f"tensor '{tensor}' {what}",
        why="the Q/DQ model would not load, or would compute something else",
        mend="report this with the manifest of the build; meanwhile try another --seed",
    )
