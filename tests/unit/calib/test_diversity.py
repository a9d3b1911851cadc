from __future__ import annotations

import math

import pytest
import torch

from calib.diversity import ClassCentres, gram_spectrum, margin_term, spectral_gram_term


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_the_spectrum_is_that_of_the_cosines_between_samples():
    x = randn(5, 3, 4, 4)
    found = gram_spectrum(x)
    rows = x.flatten(1).double()
    cosines = torch.nn.functional.cosine_similarity(rows[:, None], rows[None], dim=2)
    assert found.values.dtype == torch.float64
    assert (found.values.diff() >= 0).all()
    restored = found.vectors @ torch.diag(found.values) @ found.vectors.T
    torch.testing.assert_close(restored, cosines, rtol=1e-6, atol=1e-6)
    assert float(found.values.sum()) == pytest.approx(5)


def test_a_batch_is_at_no_distance_from_its_own_spectrum():
    x = randn(8, 3, 4, 4)
    assert abs(float(spectral_gram_term(x, gram_spectrum(x)))) < 1e-6


def test_the_term_does_not_depend_on_how_bright_the_samples_are():
    x, noise = randn(8, 3, 4, 4), gram_spectrum(randn(8, 3, 4, 4, seed=1))
    brightness = torch.arange(1, 9).view(-1, 1, 1, 1)
    torch.testing.assert_close(
        spectral_gram_term(x * brightness, noise), spectral_gram_term(x, noise)
    )


def test_a_batch_of_equal_pictures_is_far_from_the_spectrum_of_noise():
    x = randn(8, 3, 4, 4)
    equal = x[:1].expand_as(x) + 1e-3 * randn(8, 3, 4, 4, seed=1)
    own = float(spectral_gram_term(x, gram_spectrum(x)))
    assert float(spectral_gram_term(equal, gram_spectrum(x))) > own + 0.1
    # One direction holds everything: the largest eigenvalue is the number of samples.
    assert float(gram_spectrum(equal).values[-1]) == pytest.approx(8, rel=1e-3)


@pytest.mark.parametrize("shape", [(8, 3, 4, 4), (1, 3, 4, 4), (40, 1, 3, 3)], ids=str)
def test_the_gradient_is_finite_even_with_more_samples_than_pixels(shape):
    x = randn(*shape).requires_grad_(True)
    loss = spectral_gram_term(x, gram_spectrum(randn(*shape, seed=1)))
    assert loss.shape == ()
    torch.autograd.backward(loss)
    assert torch.isfinite(x.grad).all()


def test_the_gradient_leads_away_from_equal_pictures():
    noise = gram_spectrum(randn(6, 3, 4, 4, seed=1))
    x = (randn(1, 3, 4, 4).expand(6, -1, -1, -1) + 0.05 * randn(6, 3, 4, 4, seed=2)).clone()
    x.requires_grad_(True)
    optimizer = torch.optim.Adam([x], lr=0.05)
    losses = []
    for _ in range(40):
        loss = spectral_gram_term(x, noise)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]


FEATURES = torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 3.0]])


def test_the_margin_costs_what_is_too_near_and_what_is_too_far():
    centres = torch.tensor([[2.0, 0.0], [1.0, 0.0], [math.nan, math.nan]])
    # Cosine distances 0 and 1; the third class has no centre yet.
    found = margin_term(FEATURES, centres, low=0.3, high=0.8)
    assert float(found) == pytest.approx((0.3 + 0.2) / 2, abs=1e-6)


def test_a_margin_of_all_distances_is_vacuous():
    centres = torch.randn(3, 2, generator=torch.Generator().manual_seed(0))
    assert float(margin_term(FEATURES, centres, low=0.0, high=2.0)) == 0


def test_without_centres_there_is_no_margin_and_a_gradient_of_zero():
    x = FEATURES.clone().requires_grad_(True)
    found = margin_term(x, torch.full((3, 2), math.nan), low=0.3, high=0.8)
    torch.autograd.backward(found)
    assert float(found.detach()) == 0
    assert (x.grad == 0).all()


def test_a_class_centre_is_the_mean_of_what_was_added():
    centres = ClassCentres(3)
    assert centres.of(torch.tensor([0])) is None
    centres.add(FEATURES[:2], torch.tensor([1, 1]))
    centres.add(FEATURES[2:], torch.tensor([1]))
    found = centres.of(torch.tensor([1, 0]))
    assert found[0].tolist() == pytest.approx([4 / 3, 5 / 3])
    assert found[1].isnan().all()
