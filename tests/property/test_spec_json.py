"""Specs go to JSON text and back without a loss, and refuse what they do not know."""

from __future__ import annotations

import json

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from edgeq.core.errors import InputError
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
from edgeq.core.serial import Spec, canonical_json
from edgeq.core.specs import BitSpec, BNEntry, BNTable, InputSpec, Layout

few = settings(deadline=None, derandomize=True, max_examples=40, database=None)

names = st.text(min_size=1, max_size=8)
floats = st.floats(allow_nan=False, allow_infinity=False)
positive = st.floats(1e-6, 1e6)


@st.composite
def grids(draw: st.DrawFn) -> Grid:
    bits = draw(st.integers(2, 8))
    axis = draw(st.none() | st.integers(0, 3))
    return Grid(bits=bits, signed=bits == 8 or draw(st.booleans()), axis=axis)


sites = st.builds(Site, node=names, index=st.integers(0, 3), op_type=names)


@st.composite
def plans(draw: st.DrawFn) -> QuantPlan:
    decisions: list[Decision] = []
    owners: dict[str, Grid] = {}
    for tensor in draw(st.lists(names, unique=True, max_size=5)):
        grid = draw(st.none() | grids())
        owner = None
        if grid is not None:
            kinds = [st.just(OwnRange()), st.builds(FixedRange, amax=positive)]
            kinds += [
                st.just(SharedRange(with_tensor=name))
                for name, known in owners.items()
                if known == grid
            ]
            owner = draw(st.one_of(kinds))
            if not isinstance(owner, SharedRange):
                owners[tensor] = grid
        decisions.append(
            Decision(
                tensor=tensor,
                role=draw(st.sampled_from(Role)),
                grid=grid,
                owner=owner,
                sites=tuple(draw(st.lists(sites, min_size=1, max_size=2))),
                rule=draw(names),
                reason=draw(st.text(max_size=8)),
            )
        )
    return QuantPlan(target=draw(names), bits="w4a4", decisions=tuple(decisions))


@st.composite
def inputs(draw: st.DrawFn) -> InputSpec:
    low = draw(floats)
    high = draw(floats)
    assume(low < high)
    return InputSpec(
        name=draw(names),
        shape=tuple(draw(st.lists(st.integers(1, 9), min_size=1, max_size=4))),
        batch=draw(st.none() | st.integers(1, 9)),
        dtype="float32",
        layout=draw(st.sampled_from(Layout)),
        mean=tuple(draw(st.lists(floats, max_size=3))),
        std=tuple(draw(st.lists(positive, max_size=3))),
        low=(low,),
        high=(high,),
    )


vectors = st.lists(floats, max_size=3).map(tuple)
tables = st.builds(
    BNTable,
    entries=st.lists(
        st.builds(
            BNEntry, tensor=names, node=names, mean=vectors, var=vectors, eps=positive, source=names
        ),
        max_size=3,
    ).map(tuple),
)
widths = st.builds(
    BitSpec, weights=st.integers(2, 8), activations=st.integers(2, 8), first_last_same=st.booleans()
)
specs = st.one_of(plans(), inputs(), tables, widths)


@few
@given(specs)
def test_a_spec_comes_back_from_its_text_with_the_same_digest(spec: Spec):
    text = canonical_json(spec.to_dict())
    again = type(spec).from_dict(json.loads(text))
    assert again == spec
    assert canonical_json(again.to_dict()) == text
    assert again.digest() == spec.digest()


@few
@given(specs, names)
def test_an_unknown_key_is_refused(spec: Spec, key: str):
    assume(key not in spec.to_dict())
    with pytest.raises(InputError, match="unknown key"):
        type(spec).from_dict(spec.to_dict() | {key: 1})


@few
@given(specs, st.data())
def test_a_value_of_another_kind_is_refused(spec: Spec, data: st.DataObject):
    key = data.draw(st.sampled_from(sorted(set(spec.to_dict()) - {"schema"})))
    with pytest.raises(InputError):
        type(spec).from_dict(spec.to_dict() | {key: {"kind": "no such"}})
