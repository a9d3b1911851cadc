from __future__ import annotations

import pytest

from edgeq.cli import options
from edgeq.core import recipes
from edgeq.core.errors import InputError


def test_shapes_are_read_from_the_last_colon_on() -> None:
    assert options.read_shapes(["x:0:1x3x8x8", "y:2"]) == {"x:0": (1, 3, 8, 8), "y": (2,)}


@pytest.mark.parametrize(
    "texts",
    [["1x3x8x8"], [":1x3"], ["x:"], ["x:1xA"], ["x:1x0"], ["x:-1x3"], ["x:1x3", "x:1x4"]],
    ids=str,
)
def test_a_shape_that_cannot_be_meant_is_refused(texts: list[str]) -> None:
    with pytest.raises(InputError, match="--shape") as raised:
        options.read_shapes(texts)
    assert raised.value.mend.startswith("pass ")
    assert "--shape" in raised.value.mend


def test_numbers_are_separated_by_commas() -> None:
    assert options.read_numbers("--mean", "0.5, -1,2e-3") == (0.5, -1.0, 0.002)


def test_no_text_is_no_numbers() -> None:
    assert options.read_numbers("--mean", "") == ()


@pytest.mark.parametrize("text", ["a", "1;2", "1,,2", "nan", "1,inf"])
def test_what_is_no_finite_number_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="--std"):
        options.read_numbers("--std", text)


def test_what_is_offered_for_bounds_is_a_pair() -> None:
    with pytest.raises(InputError) as caught:
        options.read_bounds("low,high")
    assert caught.value.mend == "pass for instance --bounds=0,1"


@pytest.mark.parametrize("text", ["1", "0,1,2"])
def test_bounds_are_two(text: str) -> None:
    with pytest.raises(InputError, match="--bounds"):
        options.read_bounds(text)


def test_settings_keep_all_behind_the_first_equals_sign() -> None:
    assert options.read_settings(["a.b=c=d", "n=1"]) == {"a.b": "c=d", "n": "1"}


@pytest.mark.parametrize("texts", [["a"], ["=1"], ["a="], ["a=1", "a=2"]], ids=str)
def test_a_setting_without_key_or_value_is_refused(texts: list[str]) -> None:
    with pytest.raises(InputError, match="--set"):
        options.read_settings(texts)


def test_the_default_recipe_is_that_of_the_core() -> None:
    assert options.DEFAULT_RECIPE == recipes.DEFAULT_RECIPE
