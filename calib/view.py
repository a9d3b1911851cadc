"""What the teacher sees of the samples that are being made: legal pictures, moved by chance."""

from __future__ import annotations

import torch
from torch import Tensor

from calib.filters import channels_first_filter, random_shift
from calib.units import legal_box
from edgeq.core.recipes import SynthesisSpec
from edgeq.core.specs import InputSpec, Layout


class View:
    """The transforms of one input; all are differentiable."""

    def __init__(self, spec: SynthesisSpec, own: InputSpec) -> None:
        self._spec = spec
        self._layout = own.layout
        self._low, self._high = legal_box(own)

    def legal(self, x: Tensor) -> Tensor:
        """Return the samples as they are stored: low-passed, inside the legal box."""
        filtered = channels_first_filter(x, self._spec.lowpass, self._layout)
        return torch.maximum(torch.minimum(filtered, self._high), self._low)

    def show(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Return what the teacher sees: legal pictures, mirrored every other time, shifted."""
        shown = self.legal(x)
        if self._layout is Layout.OTHER:
            return shown
        rows, columns = (1, 2) if self._layout is Layout.NHWC else (2, 3)
        if torch.rand((), generator=generator) < 0.5:
            shown = shown.flip(columns)
        return random_shift(shown, self._spec.shift, generator, axes=(rows, columns))
