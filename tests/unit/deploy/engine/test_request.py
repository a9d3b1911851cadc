from __future__ import annotations

import pytest

from deploy.board.request import HardwareLevel
from deploy.engine.request import EngineSpec, ShapeRange, fit_shapes
from edgeq.core.errors import InputError

INPUTS = {"image": (-1, 3, 8, 8), "size": (2,), "mask": (-1, 1)}


def make_range(name: str, *shapes: tuple[int, ...]) -> ShapeRange:
    low, best, high = shapes
    return ShapeRange(input=name, min=low, opt=best, max=high)


IMAGE = make_range("image", (1, 3, 8, 8), (2, 3, 8, 8), (4, 3, 8, 8))
MASK = make_range("mask", (1, 1), (2, 1), (4, 1))


def test_ranges_come_in_the_order_of_the_network() -> None:
    assert fit_shapes(INPUTS, [MASK, IMAGE]) == (IMAGE, MASK)


def test_the_only_dynamic_input_needs_no_name() -> None:
    nameless = make_range("", IMAGE.min, IMAGE.opt, IMAGE.max)
    assert fit_shapes({"image": (-1, 3, 8, 8), "size": (2,)}, [nameless]) == (IMAGE,)


def test_a_static_network_needs_no_range() -> None:
    assert fit_shapes({"x": (1, 3)}, []) == ()


def test_all_faults_are_told_at_once_with_the_options_to_pass() -> None:
    wrong = make_range("image", (1, 4, 8, 8), (2, 4, 8, 8), (4, 4, 8, 8))
    with pytest.raises(InputError) as caught:
        fit_shapes(INPUTS, [wrong, make_range("size", (1,), (1,), (1,))])
    what = caught.value.what
    assert "input 'size' is static: 2" in what
    assert "input 'image' has the shape ?x3x8x8, which the range does not fit" in what
    assert "input 'mask' has the dynamic shape ?x1 and no range" in what
    assert "--shape mask:1x1:8x1:16x1" in caught.value.mend


@pytest.mark.parametrize(
    ("ranges", "what"),
    [
        ([IMAGE, IMAGE, MASK], "input 'image' is given twice"),
        ([IMAGE, MASK, make_range("imag", (1,), (1,), (1,))], "there is no input 'imag'"),
        ([make_range("", (1, 1), (1, 1), (1, 1))], "a range names no input"),
        ([make_range("image", (1, 3), (1, 3), (1, 3)), MASK], "which the range does not fit"),
    ],
)
def test_a_range_that_does_not_fit_is_refused(ranges: list[ShapeRange], what: str) -> None:
    with pytest.raises(InputError, match=what):
        fit_shapes(INPUTS, ranges)


def test_a_range_on_a_static_network_is_refused() -> None:
    with pytest.raises(InputError) as caught:
        fit_shapes({"x": (1, 3)}, [make_range("x", (1, 3), (1, 3), (1, 3))])
    assert caught.value.mend == "leave --shape away: every input is static"


@pytest.mark.parametrize(
    "shapes",
    [((1, 3), (1, 3, 8), (1, 3)), ((2,), (1,), (4,)), ((1,), (8,), (4,)), ((0,), (1,), (1,))],
)
def test_a_range_out_of_order_is_refused(shapes: tuple[tuple[int, ...], ...]) -> None:
    with pytest.raises(InputError, match=r"shapes .* of an input"):
        make_range("x", *shapes)


def test_a_workspace_of_nothing_is_refused() -> None:
    with pytest.raises(InputError, match="workspace of 0 MiB"):
        EngineSpec(workspace_mib=0)


def test_a_request_survives_its_json_form() -> None:
    spec = EngineSpec(shapes=(IMAGE,), hardware=HardwareLevel.AMPERE_PLUS)
    assert EngineSpec.from_dict(spec.to_dict()) == spec
