"""The generator and the latents of loop J3: a small network is optimised together with what it is fed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from edgeq.core.errors import CalibError
from edgeq.core.specs import InputSpec, Layout

LATENT = 256


class Generator(nn.Module):
    """z [N, 256] to pictures of about mean 0 and variance 1 a channel, in the layout of the input.

    FC to 128 x H/4 x W/4, BN; twice as large; Conv 64, BN, LeakyReLU 0.2; twice as large; Conv to the channels, tanh,
    BN without gains. Always in train mode: it normalises by the batch's own statistics.

    Source: generator G4 of Genie-D (Jeon, Lee, Kim, CVPR 2023). Sides that 4 does not divide are rounded up, then cut.
    """

    def __init__(self, own: InputSpec) -> None:
        super().__init__()
        if own.layout is Layout.OTHER:
            raise CalibError(
                f"the input '{own.name}' is no picture, and the recipe's generator draws pictures",
                why="a generator doubles rows and columns; this input has none",
                mend="take a recipe that optimises the samples themselves, for instance --recipe zeroq",
            )
        self._channels_last = own.layout is Layout.NHWC
        self._size = own.shape[:2] if self._channels_last else own.shape[1:]
        self._quarter = tuple(-(-side // 4) for side in self._size)
        self.spread = nn.Linear(LATENT, 128 * self._quarter[0] * self._quarter[1])
        self.coarse = nn.Sequential(nn.BatchNorm2d(128), nn.Upsample(scale_factor=2.0))
        self.middle = nn.Sequential(
            nn.Conv2d(128, 64, 3, padding=1),
            nn.BatchNorm2d(64),
            nn.LeakyReLU(0.2),
            nn.Upsample(scale_factor=2.0),
        )
        self.fine = nn.Sequential(
            nn.Conv2d(64, own.channels, 3, padding=1),
            nn.Tanh(),
            nn.BatchNorm2d(own.channels, affine=False),
        )

    def forward(self, z: Tensor) -> Tensor:
        """Return the pictures [N, *shape].

        Raises:
            CalibError: if N is 1 and no side is longer than 4.
        """
        height, width = self._size
        if len(z) * self._quarter[0] * self._quarter[1] == 1:
            raise CalibError(
                f"one picture of {height}x{width} alone is too little for the recipe's generator",
                why="it normalises by the batch, and there is one value a channel of it",
                mend="choose --set synthesis.samples so that no batch is left with one picture",
            )
        rows = self.spread(z).view(len(z), 128, *self._quarter)
        pictures: Tensor = self.fine(self.middle(self.coarse(rows)))
        pictures = pictures[..., :height, :width]
        return pictures.permute(0, 2, 3, 1) if self._channels_last else pictures


def make_generator(own: InputSpec, generator: torch.Generator) -> Generator:
    """Return a fresh generator whose weights depend on `generator` alone."""
    with _drawn_from(generator):
        return Generator(own)


@contextmanager
def _drawn_from(generator: torch.Generator) -> Iterator[None]:
    """Let what torch's layers draw at their making come from `generator`; the global state stays as it was."""
    seed = int(torch.randint(2**62, (), generator=generator))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
