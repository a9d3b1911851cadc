"""The preview shows the samples as the pictures they stand for."""

from __future__ import annotations

import dataclasses
import io

import numpy as np
import pytest
from PIL import Image

from edgeq.core.samples import SampleSet
from edgeq.core.specs import InputSpec, Layout
from edgeq.report.preview import preview_png, to_pixels


def make_spec(layout: Layout, channels: int, *, height: int = 6, width: int = 4) -> InputSpec:
    shape = (channels, height, width) if layout is Layout.NCHW else (height, width, channels)
    return InputSpec(
        name="x",
        shape=shape,
        batch=None,
        dtype="float32",
        layout=layout,
        mean=tuple(0.1 * (index + 1) for index in range(channels)),
        std=tuple(0.25 * (index + 1) for index in range(channels)),
        low=(-9.0,) * channels,
        high=(9.0,) * channels,
    )


def make_set(spec: InputSpec, count: int) -> tuple[SampleSet, np.ndarray]:
    """Return samples and the 8-bit pixels they were made of."""
    height, width = spec.shape[:2] if spec.layout is Layout.NHWC else spec.shape[1:]
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (count, height, width, spec.channels), dtype=np.uint8)
    x = spec.normalise(pixels / np.float32(255))
    return SampleSet(input_name="x", samples=x, labels=None, provenance={}), pixels


def read_sheet(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)))


@pytest.mark.parametrize("layout", [Layout.NCHW, Layout.NHWC], ids=str)
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_samples_become_the_pixels_that_they_were_made_of(layout, channels):
    spec = make_spec(layout, channels)
    samples, pixels = make_set(spec, 3)
    found = to_pixels(samples.samples, spec)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, pixels)


def test_values_outside_a_pictures_range_are_clipped():
    spec = make_spec(Layout.NCHW, 1)
    x = np.float32([-100, 100]).repeat(24).reshape(2, 1, 6, 4)
    assert [int(picture.max()) for picture in to_pixels(x, spec)] == [0, 255]


@pytest.mark.parametrize("layout", [Layout.NCHW, Layout.NHWC], ids=str)
@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB"), (4, "RGB")])
def test_every_sample_is_a_tile_row_by_row(layout, channels, mode):
    spec = make_spec(layout, channels)
    samples, pixels = make_set(spec, 5)
    png = preview_png(samples.samples, spec)
    assert Image.open(io.BytesIO(png)).mode == mode
    sheet = read_sheet(png)
    # Five pictures of 6 x 4 pixels, 16 times as large: three columns, two rows, gaps of two pixels.
    assert sheet.shape[:2] == (2 * 98, 3 * 66)
    for index, picture in enumerate(pixels):
        top, left = 98 * (index // 3), 66 * (index % 3)
        tile = sheet[top : top + 96 : 16, left : left + 64 : 16]
        wanted = picture[..., 0] if channels == 1 else picture[..., :3]
        np.testing.assert_array_equal(tile, wanted)
    assert (sheet[98:, 2 * 66 :] == 255).all()


def test_no_more_pictures_are_shown_than_asked_for():
    spec = make_spec(Layout.NCHW, 3)
    samples, _ = make_set(spec, 9)
    assert read_sheet(preview_png(samples.samples, spec, count=4)).shape == (2 * 98, 2 * 66, 3)


def test_large_pictures_are_not_enlarged():
    spec = make_spec(Layout.NCHW, 3, height=100, width=200)
    samples, pixels = make_set(spec, 1)
    sheet = read_sheet(preview_png(samples.samples, spec))
    assert sheet.shape == (102, 202, 3)
    np.testing.assert_array_equal(sheet[:100, :200], pixels[0])


def test_the_same_samples_give_the_same_bytes():
    spec = make_spec(Layout.NCHW, 3)
    samples, _ = make_set(spec, 2)
    again = dataclasses.replace(samples, provenance={"other": 1})
    assert preview_png(samples.samples, spec) == preview_png(again.samples, spec)
