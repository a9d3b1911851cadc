from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from PIL import Image

from edgeq.core.specs import InputSpec, Layout
from edgeq.report.pictures import LARGEST_PIXELS, mean_amplitude, picture_samples, radial_profile


def wave(height: int, width: int, cycles: int) -> np.ndarray:
    """Return one grey picture with `cycles` vertical stripes, [1, H, W, 1]."""
    x = np.cos(2 * np.pi * cycles * np.arange(width) / width)
    return np.rint(127 + 100 * np.tile(x, (height, 1)))[None, :, :, None].astype(np.uint8)


@pytest.mark.parametrize(("height", "width"), [(16, 16), (9, 15), (32, 8)])
def test_stripes_are_two_points_beside_the_middle(height, width):
    amplitude = mean_amplitude(wave(height, width, 2))
    found = np.argwhere(amplitude > amplitude.max() / 2).tolist()
    middle = [height // 2, width // 2]
    assert found == [[middle[0], middle[1] - 2], [middle[0], middle[1] + 2]]


def test_brightness_alone_has_no_amplitude():
    assert mean_amplitude(np.full((3, 8, 8, 3), 200, np.uint8)).max() == 0


def test_the_profile_peaks_at_the_frequency_of_the_stripes():
    profile = radial_profile(mean_amplitude(wave(32, 32, 5)))
    assert len(profile) == 16
    assert int(np.argmax(profile)) + 1 == 5


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (2, 2)])
def test_the_smallest_pictures_have_a_profile_too(shape):
    assert radial_profile(mean_amplitude(np.zeros((1, *shape, 1), np.uint8)))


@pytest.mark.parametrize(
    ("side", "kind"), [(64, "PNG"), (LARGEST_PIXELS + 200, "JPEG")], ids=["small", "large"]
)
def test_a_large_preview_is_shown_smaller(tmp_path, side, kind):
    Image.new("RGB", (side, side // 2), "red").save(tmp_path / "preview.png")
    spec = InputSpec(
        name="x", shape=(3, 8, 8), layout=Layout.NCHW, dtype="float32", batch=None,
        mean=(0.0,) * 3, std=(1.0,) * 3, low=(0.0,) * 3, high=(1.0,) * 3,
    )  # fmt: skip
    x = np.random.default_rng(0).random((4, 3, 8, 8), np.float32)
    found = picture_samples(x, spec, tmp_path / "preview.png")
    head, _, data = found.preview.partition(",")
    picture = Image.open(io.BytesIO(base64.b64decode(data)))
    assert head == f"data:image/{kind.lower()};base64"
    assert picture.format == kind
    assert picture.size == (min(side, LARGEST_PIXELS), min(side, LARGEST_PIXELS) // 2)
    assert found.spectrum.startswith("data:image/png;base64,")
    assert found == picture_samples(x, spec, tmp_path / "preview.png")
