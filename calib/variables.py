"""What is optimised to make one batch of samples: the samples themselves (loop J1), or what a generator draws (J3)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from calib.generator import LATENT, make_generator
from calib.unoptimised import initial_pixels
from calib.view import View
from edgeq.core.recipes import SynthesisSpec
from edgeq.core.specs import InputSpec
from edgeq.teacher.compute import CPU, make_adam

# Of every data recipe. ZeroQ has 0.999 for the second one, a memory longer than its 500 iterations need.
BETAS = (0.9, 0.99)
# A rate that stops falling: of the plateau schedule. All of ZeroQ's descendants have it.
LEAST_RATE = 1e-4
# What is left of the generator's rate at the end: Genie's 0.95 every 100 of 4,000 iterations.
GENERATOR_DECAY = 0.95**40


class Variables(Protocol):
    """The state of one batch."""

    def pictures(self) -> list[Tensor]:
        """Return the samples as they are now, [batch, *shape] an input, with autograd."""

    def step(self, loss: Tensor) -> None:
        """Move down the gradient of `loss` [] once."""


def start_variables(
    spec: SynthesisSpec,
    inputs: Sequence[InputSpec],
    views: Sequence[View],
    generator: torch.Generator,
    device: torch.device = CPU,
) -> Variables:
    """Return the variables of one batch, drawn from `generator` on the CPU and moved to `device`."""
    if spec.loop == "generator":
        return Latents(spec, inputs, generator, device)
    return Pixels(spec, inputs, views, generator, device)


class Pixels:
    """Loop J1: pixels, moved by Adam. `spec.projected` clips them after every step (block C3)."""

    def __init__(
        self,
        spec: SynthesisSpec,
        inputs: Sequence[InputSpec],
        views: Sequence[View],
        generator: torch.Generator,
        device: torch.device = CPU,
    ) -> None:
        starts = [initial_pixels(spec, own, generator).to(device) for own in inputs]
        self._pixels = [x.requires_grad_(True) for x in starts]
        self._views = views if spec.projected else ()
        self._optimizer = make_adam(self._pixels, lr=spec.learning_rate, betas=BETAS)
        self._schedule = make_schedule(self._optimizer, spec)

    def pictures(self) -> list[Tensor]:
        """Return the pixels."""
        return list(self._pixels)

    def step(self, loss: Tensor) -> None:
        """Move the pixels."""
        self._optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        self._optimizer.step()
        self._schedule(loss)
        with torch.no_grad():
            for view, x in zip(self._views, self._pixels, strict=False):
                x.copy_(view.clip(x))


class Latents:
    """Loop J3: latents z ~ N(0, 1) and the weights of a fresh generator an input, moved together.

    The samples are those of the last forward pass, in train mode, as the paper keeps them. The latents' rate follows
    `spec.schedule`, the generator's falls to 0.13 of its start on an exponential.

    Source: Genie-D (Jeon, Lee, Kim, CVPR 2023).
    """

    def __init__(
        self,
        spec: SynthesisSpec,
        inputs: Sequence[InputSpec],
        generator: torch.Generator,
        device: torch.device = CPU,
    ) -> None:
        drawn = [torch.randn(spec.batch, LATENT, generator=generator) for _ in inputs]
        self._latents = [z.to(device).requires_grad_(True) for z in drawn]
        self._generators = [make_generator(own, generator).to(device) for own in inputs]
        weights = [p for network in self._generators for p in network.parameters()]
        self._by_latent = make_adam(self._latents, lr=spec.learning_rate, betas=BETAS)
        self._by_weight = make_adam(weights, lr=spec.generator_rate, betas=BETAS)
        self._schedule = make_schedule(self._by_latent, spec)
        self._decay = torch.optim.lr_scheduler.ExponentialLR(
            self._by_weight, GENERATOR_DECAY ** (1 / spec.iterations)
        )

    def pictures(self) -> list[Tensor]:
        """Return what the generators draw."""
        pairs = zip(self._generators, self._latents, strict=True)
        return [network(z) for network, z in pairs]

    def step(self, loss: Tensor) -> None:
        """Move latents and generators."""
        self._by_latent.zero_grad(set_to_none=True)
        self._by_weight.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        self._by_latent.step()
        self._by_weight.step()
        self._schedule(loss)
        self._decay.step()


def make_schedule(
    optimizer: torch.optim.Optimizer, spec: SynthesisSpec
) -> Callable[[Tensor], None]:
    """Return what is told the loss after every step and sets the rate: see `SynthesisSpec.schedule`."""
    if spec.schedule == "cosine":
        cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, spec.iterations)
        return lambda _: cosine.step()
    if spec.schedule == "constant":
        return lambda _: None
    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer, factor=0.1, patience=spec.patience, min_lr=LEAST_RATE
    )
    return lambda loss: plateau.step(float(loss.detach()))
