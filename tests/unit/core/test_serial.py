"""Specs to JSON and back: nothing is guessed, nothing is ignored."""

from __future__ import annotations

import enum
import json
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import pytest

from edgeq.core.errors import InputError
from edgeq.core.serial import Spec, canonical_json, digest_of


class Colour(enum.Enum):
    RED = "red"


@dataclass(frozen=True, slots=True, kw_only=True)
class Round(Spec):
    kind: ClassVar[str] = "round"
    radius: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Square(Spec):
    kind: ClassVar[str] = "square"
    side: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Inner(Spec):
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Outer(Spec):
    schema: ClassVar[int] = 3

    name: str
    flag: bool = True
    size: float = 0.0
    colour: Colour = Colour.RED
    shape: Round | Square | None = None
    corner: Round = Round()
    inner: Inner = Inner(count=1)
    maybe: int | None = None
    numbers: tuple[int, ...] = ()
    pair: tuple[str, float] = ("a", 0.5)
    table: dict[str, float] | None = None
    anything: Any = None


FULL = Outer(
    name="n",
    flag=False,
    size=2.5,
    shape=Square(side=3),
    corner=Round(radius=2.0),
    inner=Inner(count=7),
    maybe=4,
    numbers=(1, 2),
    pair=("b", 1.5),
    table={"k": 1.0},
    anything=[1, {"x": None}],
)


@pytest.mark.parametrize("spec", [Outer(name="n"), FULL], ids=["defaults", "full"])
def test_a_spec_comes_back_through_json(spec):
    again = Outer.from_dict(json.loads(canonical_json(spec.to_dict())))
    assert again == spec
    assert again.digest() == spec.digest()


def test_absent_fields_get_their_defaults():
    assert Outer.from_dict({"name": "n"}) == Outer(name="n")


def test_a_whole_number_is_read_as_a_float_where_one_is_wanted():
    found = Outer.from_dict({"name": "n", "size": 2, "pair": ["a", 1], "table": {"k": 3}})
    assert [type(value) for value in (found.size, found.pair[1], found.table["k"])] == [float] * 3


def test_the_plain_form_is_plain_and_names_schema_and_kind():
    data = FULL.to_dict()
    assert data["schema"] == 3
    assert data["shape"] == {"kind": "square", "side": 3}
    assert data["colour"] == "red"
    assert data["numbers"] == [1, 2]
    assert "schema" not in data["inner"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"nmae": 1}, "unknown key 'nmae'; did you mean name"),
        ({"schema": 2}, "schema 2 is not 3"),
        ({"name": 5}, "'name' has the value 5, which is no str"),
        ({"name": None}, "'name' has the value None"),
        ({"flag": 1}, "'flag' has the value 1, which is no bool"),
        ({"size": True}, "'size' has the value True"),
        ({"size": "2"}, "'size' has the value '2', which is no float"),
        ({"maybe": True}, "'maybe' has the value True"),
        ({"maybe": 1.5}, "'maybe' has the value 1.5"),
        ({"colour": "blue"}, "'colour': 'blue' is not a valid"),
        ({"shape": {"kind": "oval"}}, "'shape' has the unknown kind 'oval'"),
        ({"shape": {"kind": "square", "side": 3, "angle": 1}}, "Square: unknown key 'angle'"),
        ({"shape": {"kind": "square"}}, "missing key side"),
        ({"shape": 5}, "'shape' has the value 5"),
        ({"corner": {"kind": "square"}}, "'corner' has the unknown kind 'square'"),
        ({"inner": {"count": 1, "kind": "x"}}, "Inner: unknown key 'kind'"),
        ({"inner": 5}, "'inner' has the value 5, which is no Inner"),
        ({"numbers": 5}, "'numbers' must be a list"),
        ({"numbers": [1, "2"]}, "'numbers' has the value '2'"),
        ({"pair": ["a"]}, "'pair' must have 2 items, has 1"),
        ({"table": [1]}, "'table' has the value"),
        ({"table": {"k": "1"}}, "'table' has the value"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_does_not_fit_is_refused(change, message):
    with pytest.raises(InputError) as caught:
        Outer.from_dict(FULL.to_dict() | change)
    assert message in str(caught.value)


def test_every_missing_key_is_named():
    with pytest.raises(InputError, match="cannot read Square: missing key side"):
        Square.from_dict({})


@pytest.mark.parametrize("data", [[], None, "text"])
def test_what_is_no_object_is_refused(data):
    with pytest.raises(InputError, match="a JSON object was expected"):
        Outer.from_dict(data)


def test_reading_leaves_the_data_as_they_are():
    data = FULL.to_dict()
    before = canonical_json(data)
    Outer.from_dict(data)
    assert canonical_json(data) == before


def test_equal_values_have_equal_digests_whatever_the_order_of_keys():
    assert digest_of({"a": 1, "b": [2]}) == digest_of({"b": [2], "a": 1})
    assert digest_of({"a": 1}) != digest_of({"a": 2})
    assert len(digest_of({})) == 16


def test_json_has_no_nan():
    with pytest.raises(ValueError, match="JSON"):
        canonical_json({"a": float("nan")})


class Record(NamedTuple):
    name: str
    sizes: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder(Spec):
    record: Record
    all: tuple[Record, ...] = ()


def test_a_named_tuple_may_be_a_field():
    holder = Holder(record=Record("a", (1, 2)), all=(Record("b"),))
    assert holder.to_dict()["record"] == {"name": "a", "sizes": [1, 2]}
    assert Holder.from_dict(json.loads(canonical_json(holder.to_dict()))) == holder


@pytest.mark.parametrize(
    ("record", "fault"),
    [({"sizes": []}, "missing key name"), ({"name": "a", "b": 1}, "unknown key 'b'")],
)
def test_the_keys_of_a_named_tuple_are_checked(record, fault):
    with pytest.raises(InputError, match=fault):
        Holder.from_dict({"record": record})
