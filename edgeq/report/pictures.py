"""The pictures of a report: the sample set's preview and its amplitude spectrum, as data that a page can hold."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeq.core.specs import InputSpec
from edgeq.report.curves import Curve, draw_curve
from edgeq.report.preview import to_pixels

# Enough pictures for a mean that no longer changes, few enough to hold at once.
SPECTRUM_SAMPLES = 128
# A preview that is larger is shown smaller, as JPEG: a page of ten megabytes is no pleasure on a phone.
LARGEST_PIXELS = 1024
_SPECTRUM_PIXELS = 192


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplePictures:
    """What the sample set looks like.

    Attributes:
        preview, spectrum: data URIs.
        profile: mean amplitude from the lowest to the highest frequency, logarithmic.
    """

    preview: str
    spectrum: str
    profile: Curve


def picture_samples(samples: NDArray[Any], spec: InputSpec, preview: Path) -> SamplePictures:
    """Return the pictures of the samples [N, *shape] of the picture input `spec`; `preview` is their grid, a PNG."""
    amplitude = mean_amplitude(to_pixels(samples[:SPECTRUM_SAMPLES], spec))
    return SamplePictures(
        preview=_embed_preview(preview),
        spectrum=_embed_spectrum(amplitude),
        profile=draw_curve("mean amplitude", radial_profile(amplitude), is_log=True),
    )


def mean_amplitude(pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return the mean amplitude spectrum of grey pictures, [H, W], frequency 0 in the middle, where it is 0.

    Args:
        pixels: [N, H, W, C].
    """
    grey = pixels.astype(np.float64).mean(axis=-1)
    grey -= grey.mean(axis=(1, 2), keepdims=True)
    amplitude: NDArray[np.float64] = np.abs(np.fft.fft2(grey)).mean(axis=0)
    return np.fft.fftshift(amplitude)


def radial_profile(amplitude: NDArray[np.float64]) -> list[float]:
    """Return the mean amplitude at each distance from the middle, 1 to half the shorter side."""
    height, width = amplitude.shape
    y, x = np.indices(amplitude.shape)
    shorter = min(height, width)
    # Frequencies are in cycles a picture side; on a long side the same index is a lower frequency.
    distance = np.hypot((y - height // 2) * shorter / height, (x - width // 2) * shorter / width)
    rings = np.rint(distance).astype(np.int64).reshape(-1)
    sums, counts = (np.bincount(rings, weights) for weights in (amplitude.reshape(-1), None))
    last = max(1, shorter // 2)
    means = sums[1 : last + 1] / np.maximum(1, counts[1 : last + 1])
    return [float(value) for value in means] or [0.0]


def _embed_preview(path: Path) -> str:
    from PIL import Image

    with Image.open(path) as image:
        if max(image.size) <= LARGEST_PIXELS:
            return _data_uri("png", path.read_bytes())
        small = image.copy()
    small.thumbnail((LARGEST_PIXELS, LARGEST_PIXELS))
    buffer = io.BytesIO()
    small.save(buffer, format="JPEG", quality=85)
    return _data_uri("jpeg", buffer.getvalue())


def _embed_spectrum(amplitude: NDArray[np.float64]) -> str:
    from PIL import Image

    bright = np.log1p(amplitude)
    grey = np.rint(255 * bright / (bright.max() or 1.0)).astype(np.uint8)
    zoom = max(1, _SPECTRUM_PIXELS // max(grey.shape))
    buffer = io.BytesIO()
    Image.fromarray(grey.repeat(zoom, 0).repeat(zoom, 1)).save(buffer, format="PNG")
    return _data_uri("png", buffer.getvalue())


def _data_uri(kind: str, data: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
