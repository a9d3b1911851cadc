from __future__ import annotations

import math

import pytest
import torch

from calib import filters
from calib.filters import lowpass, random_crops, random_shift


def randn(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


SIZES = [(8, 8), (7, 10), (5, 5)]


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_a_large_cutoff_changes_nothing(size):
    x = randn(2, 3, *size)
    torch.testing.assert_close(lowpass(x, 1e4), x, rtol=1e-4, atol=1e-5)


def test_no_cutoff_gives_the_picture_itself():
    x = randn(2, 3, 8, 8)
    assert lowpass(x, 0) is x


@pytest.mark.parametrize("cutoff", [0.1, 0.7, 3.0])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_the_mean_is_kept_and_the_shape(size, cutoff):
    x = randn(2, 3, *size) + 0.5
    found = lowpass(x, cutoff)
    assert found.shape == x.shape
    torch.testing.assert_close(found.mean((2, 3)), x.mean((2, 3)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("axis", [2, 3])
@pytest.mark.parametrize("cutoff", [0.5, 0.7])
def test_a_wave_at_nyquist_is_damped_by_the_gaussian_at_one(axis, cutoff):
    signs = torch.tensor([1.0, -1.0]).repeat(4)
    x = signs.view(-1, 1).expand(8, 8) if axis == 2 else signs.expand(8, 8)
    x = x[None, None].contiguous()
    gain = math.exp(-1 / (2 * cutoff**2))
    torch.testing.assert_close(lowpass(x, cutoff), x * gain, rtol=1e-4, atol=1e-5)


def test_a_checkerboard_is_damped_along_both_axes():
    signs = torch.tensor([1.0, -1.0]).repeat(4)
    x = (signs.view(-1, 1) * signs)[None, None]
    torch.testing.assert_close(lowpass(x, 0.7), x * math.exp(-2 / (2 * 0.49)), rtol=1e-4, atol=1e-5)


def test_the_same_share_of_nyquist_serves_every_size():
    """A wave at half of Nyquist loses the same, whatever the picture's size."""
    gains = []
    for size in (8, 16, 32):
        wave = torch.cos(torch.arange(size) * math.pi / 2).expand(size, size)[None, None]
        gains.append(float((lowpass(wave, 0.7) * wave).sum() / wave.square().sum()))
    assert gains == pytest.approx([math.exp(-0.25 / (2 * 0.49))] * 3, rel=1e-4)


def test_the_filter_lets_gradients_through():
    x = randn(1, 1, 8, 8).requires_grad_(True)
    torch.autograd.backward(lowpass(x, 0.5).square().sum())
    assert torch.isfinite(x.grad).all()
    assert x.grad.abs().max() > 0


def test_a_shift_rolls_rows_and_columns_and_keeps_every_pixel():
    x = torch.arange(2 * 3 * 5 * 6, dtype=torch.float32).view(2, 3, 5, 6)
    found = random_shift(x, 2, torch.Generator().manual_seed(0))
    offsets = [
        (down, right)
        for down in range(-2, 3)
        for right in range(-2, 3)
        if torch.equal(torch.roll(x, (down, right), (2, 3)), found)
    ]
    assert len(offsets) == 1


def test_every_offset_up_to_the_largest_occurs_and_none_beyond():
    x = torch.zeros(1, 1, 7, 7)
    x[0, 0, 3, 3] = 1
    generator = torch.Generator().manual_seed(0)
    found = {
        tuple((random_shift(x, 1, generator)[0, 0] == 1).nonzero()[0].tolist()) for _ in range(200)
    }
    assert found == {(row, column) for row in (2, 3, 4) for column in (2, 3, 4)}


def test_no_shift_gives_the_picture_itself_and_draws_nothing():
    generator = torch.Generator().manual_seed(0)
    before = generator.get_state()
    x = randn(1, 1, 4, 4)
    assert random_shift(x, 0, generator) is x
    assert torch.equal(generator.get_state(), before)


def test_channels_last_pictures_are_shifted_along_their_own_axes():
    x = randn(2, 5, 6, 3)
    first = random_shift(x, 2, torch.Generator().manual_seed(1), axes=(1, 2))
    second = random_shift(x.permute(0, 3, 1, 2), 2, torch.Generator().manual_seed(1))
    assert torch.equal(first, second.permute(0, 2, 3, 1))


def make_ramp(count: int, size: int) -> torch.Tensor:
    """Pictures whose value is the column, 0..1 between the borders."""
    columns = (torch.arange(size) + 0.5) / size
    return columns.expand(count, 1, size, size).clone()


def test_a_crop_shows_a_part_of_each_picture_at_the_full_size():
    found = random_crops(make_ramp(64, 32), 0.25, torch.Generator().manual_seed(0))
    assert found.shape == (64, 1, 32, 32)
    span = (found[:, 0, 0, -1] - found[:, 0, 0, 0]).abs()
    # A quarter of the area at an aspect of 3/4 is a width of 0.43.
    assert 0.42 < float(span.min()) < 0.7
    assert float(span.max()) > 0.85
    assert len({round(float(item), 4) for item in span}) > 50


def test_about_half_of_the_crops_are_mirrored():
    found = random_crops(make_ramp(200, 8), 0.5, torch.Generator().manual_seed(0))
    falling = int((found[:, 0, 0, -1] < found[:, 0, 0, 0]).sum())
    assert 70 < falling < 130


def test_the_gradient_of_a_crop_returns_to_the_picture():
    x = randn(4, 3, 8, 8).requires_grad_(True)
    torch.autograd.backward(random_crops(x, 0.5, torch.Generator().manual_seed(0)).sum())
    # Every value of the crop comes from the picture with weights that sum to 1.
    assert float(x.grad.sum()) == pytest.approx(4 * 3 * 64, rel=1e-4)


def test_long_axes_are_filtered_without_a_matrix_and_alike(monkeypatch):
    x = torch.randn(2, 3, 12, 9, generator=torch.Generator().manual_seed(0))
    by_matrix = lowpass(x, 0.4)
    monkeypatch.setattr(filters, "LONGEST_MATRIX", 8)
    monkeypatch.delattr(filters, "_lowpass_matrix")
    torch.testing.assert_close(lowpass(x, 0.4), by_matrix, rtol=1e-4, atol=1e-5)
