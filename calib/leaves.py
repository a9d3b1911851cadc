"""Dead leaves: pictures of overlapping shapes, which have the edges, scales and occlusions of natural ones.

No network is asked. They are what synthesis starts from, and the sample set itself where a network has recorded no
statistics.
Source: the dead leaves model (Lee, Mumford, Huang, IJCV 2001), used for training by Baradad et al. (NeurIPS 2021).
Deviations: superellipses with soft edges, low-passed texture and a shading gradient on each, colours around a grey of
random lightness.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from calib.filters import lowpass

SHAPES = 40
# Radii as shares of the picture's side, with a density that falls as 1 / r^2: shapes of every size show.
SMALLEST, LARGEST = 0.04, 0.6
TEXTURE = 0.06
SHADING = 0.4


def dead_leaves(
    count: int,
    height: int,
    width: int,
    channels: int,
    generator: torch.Generator,
    *,
    spread: float,
) -> Tensor:
    """Return pictures [count, channels, height, width], float32, values 0..1, drawn from `generator`.

    `spread` is the standard deviation of a surface's channels around its grey. In photographs lightness varies several
    times as much as colour.
    """
    canvas = _Canvas((count, channels, height, width), generator, spread)
    pictures = canvas.surface()
    for _ in range(SHAPES):
        mask = canvas.mask()
        pictures = pictures * (1 - mask) + canvas.surface() * mask
    return pictures.clamp(0, 1)


class _Canvas:
    """Draws masks and surfaces for a batch of pictures."""

    def __init__(
        self, size: tuple[int, int, int, int], generator: torch.Generator, spread: float
    ) -> None:
        self._size = size
        self._generator = generator
        self._spread = spread
        height, width = size[2:]
        rows = torch.linspace(0, 1, height) if height > 1 else torch.tensor([0.5])
        columns = torch.linspace(0, 1, width)
        self._y, self._x = torch.meshgrid(rows, columns, indexing="ij")

    def mask(self) -> Tensor:
        """Return one shape a picture, [N, 1, H, W]: 1 inside, 0 outside, a pixel's width between."""
        share = self._uniform()
        radius = 1 / (1 / LARGEST + (1 / SMALLEST - 1 / LARGEST) * share)
        across, along = self._uniform() * 1.2 - 0.1, self._uniform() * 1.2 - 0.1
        angle = math.pi * self._uniform()
        stretch = torch.exp(0.5 * self._normal())
        x, y = self._x - across, self._y - along
        u = (torch.cos(angle) * x + torch.sin(angle) * y) / (radius * stretch)
        v = (torch.cos(angle) * y - torch.sin(angle) * x) * stretch / radius
        # An exponent of 2 is an ellipse, one of 8 nearly a rectangle.
        power = torch.where(self._uniform() < 0.5, 2.0, 8.0)
        distance = (u.abs() ** power + v.abs() ** power) ** (1 / power)
        sharpness = 2.5 * max(self._size[2:]) * radius
        return torch.sigmoid((1 - distance) * sharpness)

    def surface(self) -> Tensor:
        """Return a colour, a texture and a shading for each picture: [N, C, H, W]."""
        count, channels, height, width = self._size
        grey = self._uniform()
        colour = grey + self._spread * self._normal(channels)
        texture = lowpass(self._normal(1, height, width), 0.15 + 0.5 * float(self._uniform()[0]))
        spread = texture.flatten(1).std(1, correction=min(1, height * width - 1))  # of one pixel: 0
        texture = texture / spread.clamp_min(1e-6).view(count, 1, 1, 1)
        angle = 2 * math.pi * self._uniform()
        slope = torch.cos(angle) * (self._x - 0.5) + torch.sin(angle) * (self._y - 0.5)
        return colour.clamp(0, 1) + TEXTURE * texture + SHADING * self._normal() * slope

    def _uniform(self) -> Tensor:
        return torch.rand(self._size[0], 1, 1, 1, generator=self._generator)

    def _normal(self, channels: int = 1, height: int = 1, width: int = 1) -> Tensor:
        return torch.randn(self._size[0], channels, height, width, generator=self._generator)
