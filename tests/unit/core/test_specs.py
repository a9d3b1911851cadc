from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from edgeq.core.errors import InputError
from edgeq.core.specs import BitSpec, BNEntry, BNTable, InputSpec, Layout

PICTURE = InputSpec(
    name="x",
    shape=(3, 4, 5),
    batch=None,
    dtype="float32",
    layout=Layout.NCHW,
    mean=(0.1, 0.2, 0.3),
    std=(0.5, 0.25, 0.125),
    low=(-2.0,) * 3,
    high=(2.0,) * 3,
)


@pytest.mark.parametrize("size", [0, -1])
def test_an_axis_without_a_size_is_refused(size):
    with pytest.raises(InputError, match="has the shape") as caught:
        dataclasses.replace(PICTURE, shape=(3, size, 4))
    assert "--shape x:" in caught.value.mend


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_a_standard_deviation_that_cannot_divide_is_refused(value):
    with pytest.raises(InputError, match="standard deviation") as caught:
        dataclasses.replace(PICTURE, std=(1.0, value, 1.0))
    assert "--std" in caught.value.mend


@pytest.mark.parametrize("low", [2.0, 3.0, float("nan")])
def test_bounds_without_room_between_them_are_refused(low):
    with pytest.raises(InputError, match="has the bounds") as caught:
        dataclasses.replace(PICTURE, low=(-2.0, low, -2.0))
    assert "--bounds" in caught.value.mend


@pytest.mark.parametrize(
    ("layout", "shape"), [(Layout.NCHW, (3, 4, 5)), (Layout.NHWC, (4, 5, 3))], ids=str
)
def test_pictures_are_normalised_channel_by_channel_into_the_models_layout(layout, shape):
    spec = dataclasses.replace(PICTURE, layout=layout, shape=shape)
    pixels = np.random.default_rng(0).random((2, 4, 5, 3), np.float32)
    x = spec.normalise(pixels)
    assert (x.shape, x.dtype, x.flags.c_contiguous) == ((2, *shape), np.float32, True)
    assert spec.channels == 3
    third = x[:, 2] if layout is Layout.NCHW else x[..., 2]
    np.testing.assert_allclose(third, (pixels[..., 2] - 0.3) / 0.125, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("text", "weights", "activations"),
    [("w8a8", 8, 8), ("w4a8", 4, 8), (" W2A3 ", 2, 3)],
)
def test_widths_are_read(text, weights, activations):
    bits = BitSpec.parse(text)
    assert (bits.weights, bits.activations, bits.first_last_same) == (weights, activations, False)
    assert BitSpec.parse(str(bits)) == bits
    assert BitSpec.parse(text, first_last_same=True).first_last_same


@pytest.mark.parametrize(
    "text", ["", "w8", "a8w8", "w1a8", "w9a8", "w8a9", "w16a8", "8/8", "w8a8x"]
)
def test_widths_of_another_form_are_refused(text):
    with pytest.raises(InputError, match="is not understood") as caught:
        BitSpec.parse(text)
    assert "--bits w8a8" in caught.value.mend


@pytest.mark.parametrize("fields", [(1, 8), (8, 9)])
def test_widths_outside_2_to_8_are_refused(fields):
    with pytest.raises(InputError, match="a width of"):
        BitSpec(weights=fields[0], activations=fields[1])


def test_specs_cannot_be_changed_and_can_be_keys():
    with pytest.raises(dataclasses.FrozenInstanceError):
        PICTURE.name = "y"
    assert len({PICTURE, dataclasses.replace(PICTURE), BitSpec.parse("w8a8")}) == 2


def test_a_table_comes_back_from_json():
    entry = BNEntry(tensor="t", node="n", mean=(0.1, 2.0), var=(1.0, 3.0), eps=1e-5, source="node")
    table = BNTable(entries=(entry,))
    assert BNTable.from_dict(table.to_dict()) == table
