"""In which precision networks run in a loop, decided in one place.

Entries: `choose_compute`, and `Compute.for_network`. Proofs, range searches and everything that is compared with ONNX
Runtime stay in float32 and do not come here. The figures behind the choices: docs/speed.md.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from edgeq.teacher.converters import CONVERSION_FAULTS

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Compute:
    """How networks run forward, and so backward.

    Attributes:
        half: bfloat16 in convolutions and matrix products (by autocast). Losses and statistics are summed in float32,
            and parameters, pixels and optimiser states stay float32.
    """

    half: bool = False

    def autocast(self) -> torch.autocast:
        """Return the context in which networks run forward."""
        return torch.autocast("cpu", torch.bfloat16, enabled=self.half)

    def for_network(self, module: nn.Module, inputs: Sequence[Tensor]) -> Compute:
        """Return how to run this network: as `self` says, or in float32 where bfloat16 does not carry it.

        A network that has float16 or float64 inside keeps its types. Any other is run once, forward and backward: an
        operator may have no kernel for bfloat16, or refuse to mix it with float32.

        Args:
            module: returns a tuple of tensors.
            inputs: one tensor [N, ...] an input; a sample or two are enough.
        """
        if not self.half:
            return self
        held = (*module.parameters(), *module.buffers())
        if {x.dtype for x in held if x.is_floating_point()} - {torch.float32}:
            return dataclasses.replace(self, half=False)
        shown = [item.detach().requires_grad_(item.is_floating_point()) for item in inputs]
        try:
            with self.autocast():
                outputs = module(*shown)
            values = [item.float().sum() for item in outputs if item.requires_grad]
            if values:
                torch.autograd.grad(torch.stack(values).sum(), shown, allow_unused=True)
            if all(item.isfinite().all() for item in outputs):
                return self
            reason = "its values are not finite there"
        except CONVERSION_FAULTS as error:
            reason = str(error).partition("\n")[0]
        _LOG.info("the network runs in float32, not in bfloat16: %s", reason)
        return dataclasses.replace(self, half=False)

    def to_dict(self) -> dict[str, bool]:
        """Return what results depend on."""
        return dataclasses.asdict(self)


PLAIN = Compute()


def choose_compute() -> Compute:
    """Return how this machine computes fastest.

    bfloat16 where the processor multiplies it (AVX512_BF16 or AMX); elsewhere oneDNN emulates it, slower than float32.
    Tensors stay contiguous: oneDNN reorders inside, and channels last measured slower.
    """
    questions = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")  # absent in torch 2.4
    return Compute(half=any(getattr(torch.cpu, name, lambda: False)() for name in questions))
