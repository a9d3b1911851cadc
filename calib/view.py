"""What the teacher sees of the samples that are being made: legal pictures, moved and cropped by chance."""

from __future__ import annotations

import torch
from torch import Tensor

from calib.filters import channels_first_filter, random_crops, random_shift
from calib.units import legal_box
from edgeq.core.recipes import SynthesisSpec
from edgeq.core.specs import InputSpec, Layout
from edgeq.teacher.compute import CPU


class View:
    """The transforms of one input; all are differentiable."""

    def __init__(self, spec: SynthesisSpec, own: InputSpec, device: torch.device = CPU) -> None:
        self._spec = spec
        self._layout = own.layout
        self._low, self._high = (bound.to(device) for bound in legal_box(own))

    def clip(self, x: Tensor) -> Tensor:
        """Return the samples inside the legal box."""
        return x.clamp(self._low, self._high)

    def legal(self, x: Tensor) -> Tensor:
        """Return the samples as they are stored: low-passed, inside the legal box."""
        return self.clip(channels_first_filter(x, self._spec.lowpass, self._layout))

    def show(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Return what the teacher sees: legal pictures, mirrored and cropped every other time, shifted."""
        spec, shown = self._spec, self.legal(x)
        if self._layout is Layout.OTHER:
            return shown
        rows, columns = (1, 2) if self._layout is Layout.NHWC else (2, 3)
        if spec.flip and torch.rand((), generator=generator) < 0.5:
            shown = shown.flip(columns)
        shown = random_shift(shown, spec.shift, generator, axes=(rows, columns))
        if spec.crop == 0 or torch.rand((), generator=generator) >= 0.5:
            return shown
        return as_layout(
            random_crops(as_nchw(shown, self._layout), spec.crop, generator), self._layout
        )


def as_nchw(x: Tensor, layout: Layout) -> Tensor:
    """Return a picture batch with its channels first."""
    return x.permute(0, 3, 1, 2) if layout is Layout.NHWC else x


def as_layout(x: Tensor, layout: Layout) -> Tensor:
    """Return a picture batch [N, C, H, W] in its own layout."""
    return x.permute(0, 2, 3, 1) if layout is Layout.NHWC else x
