from __future__ import annotations

import pytest

from edgeq.core.errors import EdgeqBug, InputError, describe_choices
from edgeq.core.registry import Registry


@pytest.fixture
def registry() -> Registry[str]:
    found: Registry[str] = Registry("fruit")
    found.register("pear", "pome")("a pear")
    found.register("apple")("an apple")
    return found


def test_an_entry_is_found_under_each_of_its_names(registry):
    assert registry.get("pear") == registry.get("pome") == "a pear"
    assert "pome" in registry
    assert "plum" not in registry


def test_names_come_in_alphabetical_order(registry):
    assert registry.names() == ("apple", "pear", "pome")
    assert list(registry) == ["apple", "pear", "pome"]


def test_the_decorator_gives_back_what_it_registers():
    registry: Registry[object] = Registry("function")

    @registry.register("one")
    def one() -> int:
        return 1

    assert one() == 1
    assert registry.get("one") is one


def test_a_used_name_is_our_own_bug_and_the_first_entry_stays(registry):
    with pytest.raises(EdgeqBug, match="fruit 'apple' is registered twice"):
        registry.register("apple")("another")
    assert registry.get("apple") == "an apple"


def test_an_unknown_name_is_told_with_the_nearest_and_all(registry):
    with pytest.raises(InputError, match="unknown fruit 'aple'") as caught:
        registry.get("aple")
    assert caught.value.mend.startswith("did you mean apple")
    assert caught.value.mend == describe_choices("aple", registry.names())
