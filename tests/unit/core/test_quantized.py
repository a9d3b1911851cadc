from __future__ import annotations

import numpy as np
import pytest

from edgeq.core.errors import NumericsError
from edgeq.core.plan import Decision, Grid, OwnRange, QuantPlan, Role, Site
from edgeq.core.quantized import QuantizedValues

SITE = (Site(node="c", index=0, op_type="Conv"),)


def decide(tensor: str, role: Role, grid: Grid) -> Decision:
    return Decision(
        tensor=tensor, role=role, grid=grid, owner=OwnRange(), sites=SITE, rule="r", reason=""
    )


PLAN = QuantPlan(
    target="cpu",
    bits="w4a8",
    decisions=(
        decide("x", Role.ACTIVATION, Grid(bits=8)),
        decide("w", Role.WEIGHT, Grid(bits=4, narrow=True, axis=0)),
        Decision(
            tensor="f", role=Role.ACTIVATION, grid=None, owner=None, sites=(), rule="r", reason=""
        ),
    ),
)


def values(**changes) -> QuantizedValues:
    fields = {
        "scales": {"x": np.float32(0.5), "w": np.float32([0.1, 0.2])},
        "codes": {"w": np.int8([[-7, 7], [0, 1]])},
        "floats": {},
    }
    return QuantizedValues(**(fields | changes))


def test_complete_values_pass():
    values().require_complete(PLAN)


@pytest.mark.parametrize(
    "scale", [None, 0.0, -1.0, float("nan"), float("inf")], ids=lambda scale: str(scale)
)
@pytest.mark.parametrize("tensor", ["x", "w"])
def test_a_scale_that_is_missing_or_illegal_is_told_with_its_tensor(tensor, scale):
    scales = dict(values().scales)
    if scale is None:
        del scales[tensor]
    else:
        scales[tensor] = np.float32([0.1, scale]) if tensor == "w" else np.float32(scale)
    with pytest.raises(NumericsError, match=f"tensor '{tensor}' has no positive, finite scale"):
        values(scales=scales).require_complete(PLAN)


def test_missing_codes_are_told():
    with pytest.raises(NumericsError, match="tensor 'w' has no integer weights"):
        values(codes={}).require_complete(PLAN)


@pytest.mark.parametrize("code", [-8, 8])
def test_codes_off_the_grid_are_told(code):
    with pytest.raises(NumericsError, match=r"tensor 'w' has codes off its grid int4 -7\.\.7"):
        values(codes={"w": np.int8([[0, code]])}).require_complete(PLAN)
