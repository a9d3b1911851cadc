"""The sample set as a picture grid."""

from __future__ import annotations

import io
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeq.core.specs import InputSpec, Layout

# Small pictures are enlarged to about this many pixels a side, so that a person sees something.
_TILE_PIXELS = 96
_GAP_PIXELS = 2


def preview_png(samples: NDArray[Any], spec: InputSpec, *, count: int = 64) -> bytes:
    """Return a PNG of up to `count` samples, row by row, as the pictures they stand for.

    Args:
        samples: [N, *shape], of the picture input `spec`.
        spec: its mean and std turn the samples back into pixels.
        count: largest number of pictures.
    """
    from PIL import Image

    pixels = to_pixels(samples[:count], spec)
    number, height, width, channels = pixels.shape
    columns = math.ceil(math.sqrt(number))
    rows = math.ceil(number / columns)
    zoom = max(1, round(_TILE_PIXELS / max(height, width)))
    high, wide = height * zoom + _GAP_PIXELS, width * zoom + _GAP_PIXELS
    sheet = np.full((rows * high, columns * wide, channels), 255, np.uint8)
    for index, picture in enumerate(pixels):
        top, left = (index // columns) * high, (index % columns) * wide
        tile = picture.repeat(zoom, 0).repeat(zoom, 1)
        sheet[top : top + tile.shape[0], left : left + tile.shape[1]] = tile
    image = Image.fromarray(sheet[..., 0] if channels == 1 else sheet[..., :3])
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


def to_pixels(x: NDArray[Any], spec: InputSpec) -> NDArray[np.uint8]:
    """Return model inputs [N, *shape] as pixels [N, H, W, C], uint8."""
    if spec.layout is not Layout.NHWC:
        x = x.transpose(0, 2, 3, 1)
    raw = x * np.asarray(spec.std, np.float32) + np.asarray(spec.mean, np.float32)
    return np.asarray(np.rint(np.clip(raw, 0, 1) * 255), np.uint8)
