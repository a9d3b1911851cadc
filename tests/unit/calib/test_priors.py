"""Image priors against values worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from calib.priors import (
    image_norm,
    image_statistics,
    texture_energies,
    texture_term,
    total_variation,
)


def randn(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def test_the_total_variation_sums_four_norms_over_the_batch():
    x = torch.tensor([[1.0, 2.0], [4.0, 8.0]]).view(1, 1, 2, 2)
    right = math.hypot(1, 4)
    down = math.hypot(3, 6)
    assert float(total_variation(x)) == pytest.approx(right + down + 7 + 2, rel=1e-6)
    twice = torch.cat([x, x])
    assert float(total_variation(twice)) == pytest.approx(
        math.sqrt(2) * float(total_variation(x)), rel=1e-6
    )


def test_one_colour_has_no_variation_and_a_finite_gradient():
    x = torch.ones(2, 3, 4, 4, requires_grad=True)
    found = total_variation(x)
    torch.autograd.backward(found)
    assert float(found.detach()) == pytest.approx(0, abs=1e-5)
    assert x.grad.isfinite().all()


def test_the_norm_is_a_mean_over_pictures():
    x = torch.zeros(2, 1, 2, 2)
    x[0, 0, 0] = torch.tensor([3.0, 4.0])
    assert float(image_norm(x)) == pytest.approx(2.5)


def test_pictures_of_mean_zero_and_deviation_one_cost_nothing():
    x = torch.tensor([1.0, -1.0, 1.0, -1.0]).view(1, 1, 2, 2).expand(3, 2, 2, 2)
    assert float(image_statistics(x)) == pytest.approx(0, abs=1e-10)
    # Mean 2 and deviation 3 in both channels: 2 * (4 + 4).
    assert float(image_statistics(3 * x + 2)) == pytest.approx(16, rel=1e-5)


def test_the_fourteen_energies_are_shares():
    found = texture_energies(randn(5, 3, 20, 17))
    assert found.shape == (5, 14)
    assert (found >= 0).all()
    torch.testing.assert_close(found.sum(1), torch.ones(5))


def test_the_energies_know_no_direction():
    x = randn(3, 1, 24, 24)
    torch.testing.assert_close(texture_energies(x), texture_energies(x.transpose(2, 3)))


def test_horizontal_edges_are_the_energy_of_the_level_and_edge_masks():
    x = torch.zeros(1, 1, 30, 30)
    x[..., 15:, :] = 1.0
    found = texture_energies(x)[0]
    # Level-edge is the first of the pairs; masks without a level see nothing where rows are constant.
    assert int(found.argmax()) == 0
    assert float(found[:4].sum()) == pytest.approx(1, abs=1e-3)


def test_one_dominating_element_costs_most():
    stripes = torch.zeros(1, 1, 32, 32)
    stripes[..., ::2, :] = 1.0
    assert float(texture_term(stripes)) > 2 * float(texture_term(randn(1, 1, 32, 32)))


def test_the_texture_term_is_the_excess_of_the_nine_largest_shares():
    x = randn(2, 3, 16, 16)
    wanted = 0.0
    for row in texture_energies(x).tolist():
        wanted += sum(max(0.0, abs(e - 1 / 9) - 0.015) for e in sorted(row)[-9:]) / 2
    assert float(texture_term(x)) == pytest.approx(wanted, rel=1e-5)
