"""A plan that breaks its own rules cannot be made."""

from __future__ import annotations

import pytest

from edgeq.core.errors import EdgeqBug, InputError, NumericsError
from edgeq.core.plan import (
    Decision,
    FixedRange,
    Grid,
    OwnRange,
    QuantPlan,
    Role,
    SharedRange,
    Site,
)

INT8 = Grid(bits=8)
INT4 = Grid(bits=4)


def decide(tensor: str, grid=INT8, owner=None, *, role=Role.ACTIVATION, sites=None) -> Decision:
    if owner is None and grid is not None:
        owner = OwnRange()
    if sites is None:
        sites = (Site(node="c", index=0, op_type="Conv"),) if grid is not None else ()
    return Decision(
        tensor=tensor, role=role, grid=grid, owner=owner, sites=sites, rule="r", reason="because"
    )


def plan(*decisions: Decision) -> QuantPlan:
    return QuantPlan(target="cpu", bits="w8a8", decisions=decisions)


@pytest.mark.parametrize(
    ("grid", "low", "high", "needs_clip", "text"),
    [
        (Grid(bits=8), -128, 127, False, "int8 -128..127 per tensor"),
        (Grid(bits=8, narrow=True, axis=0), -127, 127, True, "int8 -127..127 per channel 0"),
        (Grid(bits=4), -8, 7, True, "int4 -8..7 per tensor"),
        (Grid(bits=8, signed=False), 0, 255, False, "uint8 0..255 per tensor"),
        (Grid(bits=4, signed=False), 0, 15, True, "uint4 0..15 per tensor"),
        (Grid(bits=2, narrow=True, axis=1), -1, 1, True, "int2 -1..1 per channel 1"),
    ],
    ids=str,
)
def test_a_grid_knows_its_codes_and_says_them(grid, low, high, needs_clip, text):
    assert (grid.low, grid.high, grid.needs_clip, str(grid)) == (low, high, needs_clip, text)


@pytest.mark.parametrize(("bits", "signed"), [(1, True), (9, True), (9, False)])
def test_a_grid_that_does_not_fit_a_container_of_8_bits_is_refused(bits, signed):
    with pytest.raises(NumericsError, match=f"no grid of {bits} bits"):
        Grid(bits=bits, signed=signed)


@pytest.mark.parametrize(
    "fields",
    [{"grid": None, "owner": OwnRange()}, {"grid": INT8, "owner": None}],
    ids=["owner_alone", "grid_alone"],
)
def test_grid_and_owner_go_together(fields):
    with pytest.raises(EdgeqBug, match="grid and owner"):
        Decision(tensor="t", role=Role.WEIGHT, sites=(), rule="r", reason="", **fields)


def test_a_tensor_is_quantized_for_somebody():
    with pytest.raises(EdgeqBug, match="for nobody"):
        decide("t", sites=())


def test_a_tensor_that_stays_float_needs_no_site():
    assert decide("t", grid=None).owner is None


def test_two_decisions_on_one_tensor_are_refused():
    with pytest.raises(EdgeqBug, match="two decisions on 't'"):
        plan(decide("t"), decide("t", INT4))


def shares(tensor: str, owner: str, grid: Grid = INT8) -> Decision:
    return decide(tensor, grid, SharedRange(with_tensor=owner))


@pytest.mark.parametrize(
    "decisions",
    [
        (shares("b", "a"),),
        (shares("b", "a"), decide("a")),
        (decide("a", INT4), shares("b", "a")),
        (decide("a", grid=None), shares("b", "a")),
        (decide("a"), shares("b", "a"), shares("c", "b")),
        (shares("a", "a"),),
    ],
    ids=["no_owner", "owner_after", "other_grid", "float_owner", "chain", "itself"],
)
def test_a_shared_range_needs_an_earlier_owner_with_the_same_grid(decisions):
    with pytest.raises(EdgeqBug, match="shares the range"):
        plan(*decisions)


def test_a_fixed_range_can_be_shared():
    found = plan(decide("a", INT8, FixedRange(amax=2.0)), shares("b", "a"))
    assert found.owner_of("b") == "a"


def test_owners_are_found_and_an_unknown_tensor_is_our_own_bug():
    found = plan(decide("a"), shares("b", "a"))
    assert (found.owner_of("a"), found.owner_of("b")) == ("a", "a")
    with pytest.raises(EdgeqBug, match="no decision on 'z'"):
        found.owner_of("z")


def test_quantized_decisions_are_told_by_role():
    found = plan(decide("a"), decide("w", role=Role.WEIGHT), decide("f", grid=None))
    names = [
        [decision.tensor for decision in found.quantized(role)]
        for role in (None, Role.ACTIVATION, Role.WEIGHT)
    ]
    assert names == [["a", "w"], ["a"], ["w"]]


def test_a_plan_comes_back_from_json_with_each_kind_of_owner():
    found = plan(
        decide("a", INT8, FixedRange(amax=2.0)),
        shares("b", "a"),
        decide("w", Grid(bits=4, narrow=True, axis=0), role=Role.WEIGHT),
        decide("f", grid=None),
    )
    again = QuantPlan.from_dict(found.to_dict())
    assert again == found
    assert again.digest() == found.digest()
    assert [type(item.owner) for item in again.decisions] == [
        FixedRange,
        SharedRange,
        OwnRange,
        type(None),
    ]


def test_an_owner_of_an_unknown_kind_is_refused():
    data = plan(decide("a")).to_dict()
    data["decisions"][0]["owner"] = {"kind": "borrowed"}
    with pytest.raises(InputError, match="unknown kind 'borrowed'"):
        QuantPlan.from_dict(data)
