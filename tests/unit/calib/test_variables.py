"""What is moved: pixels that stay legal, or a generator with its latents; rates that fall as told."""

from __future__ import annotations

import pytest
import torch

from calib.variables import Latents, Pixels, make_schedule
from calib.view import View


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def rates(spec, losses: list[float]) -> list[float]:
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.Adam([weight], lr=1.0)
    schedule = make_schedule(optimizer, spec)
    found = []
    for loss in losses:
        optimizer.step()
        schedule(torch.tensor(loss))
        found.append(optimizer.param_groups[0]["lr"])
    return found


def test_the_cosine_falls_to_zero(make_spec):
    found = rates(make_spec(schedule="cosine", iterations=4), [1.0] * 4)
    assert found == pytest.approx([0.8536, 0.5, 0.1464, 0.0], abs=1e-4)


def test_the_plateau_falls_to_a_tenth_after_its_patience(make_spec):
    spec = make_spec(schedule="plateau", patience=2)
    assert rates(spec, [3.0, 2.0, 2.0, 2.0, 2.0, 1.0]) == pytest.approx([1, 1, 1, 1, 0.1, 0.1])


def test_a_constant_rate_stays(make_spec):
    assert rates(make_spec(schedule="constant"), [1.0] * 3) == [1.0] * 3


@pytest.mark.parametrize("projected", [True, False])
def test_projected_pixels_are_legal_after_every_step(problem, make_spec, projected):
    spec = make_spec(projected=projected, start="white", learning_rate=5.0)
    views = [View(spec, own) for own in problem.inputs]
    pixels = Pixels(spec, problem.inputs, views, seeded())
    pixels.step(-pixels.pictures()[0].sum())
    (x,) = pixels.pictures()
    assert torch.equal(views[0].clip(x), x) is projected


def test_a_step_moves_latents_and_generator_down_the_loss(problem, make_spec):
    spec = make_spec(loop="generator", iterations=30, generator_rate=0.01, schedule="constant")
    latents = Latents(spec, problem.inputs, seeded())
    wanted = torch.rand(spec.batch, *problem.inputs[0].shape, generator=seeded())
    losses = []
    for _ in range(30):
        loss = (latents.pictures()[0] - wanted).square().mean()
        latents.step(loss)
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.75 * losses[0]
