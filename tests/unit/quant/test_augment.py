from __future__ import annotations

import pytest
import torch

from edgeq.quant.augment import augment

OFF = {"flip": False, "shift": 0, "mix": 0.0}


def pictures(*shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0))


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("figures", [{}, OFF, {"shift": 50}], ids=["all", "off", "large_shift"])
@pytest.mark.parametrize("shape", [(4, 3, 8, 6), (1, 1, 1, 1)], ids=str)
def test_the_shape_is_kept_and_the_pictures_stay_as_they_are(make_spec, figures, shape):
    x = pictures(*shape)
    before = x.clone()
    assert augment(x, make_spec(**figures), seeded()).shape == x.shape
    assert torch.equal(x, before)


def test_a_seed_gives_the_same_pictures_and_another_one_others(make_spec):
    x, spec = pictures(4, 3, 8, 8), make_spec()
    first, again, other = (augment(x, spec, seeded(seed)) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_with_everything_off_nothing_changes(make_spec):
    x = pictures(4, 3, 8, 8)
    assert torch.equal(augment(x, make_spec(**OFF), seeded()), x)


def test_about_half_of_the_pictures_are_mirrored_and_the_rest_are_left(make_spec):
    x = pictures(64, 1, 4, 4)
    found = augment(x, make_spec(**OFF | {"flip": True}), seeded())
    kept = sum(torch.equal(a, b) for a, b in zip(found, x, strict=True))
    mirrored = sum(torch.equal(a, b.flip(-1)) for a, b in zip(found, x, strict=True))
    assert kept + mirrored == 64
    assert 20 <= kept <= 44


def test_a_shift_moves_all_pictures_alike_and_reflects_the_edge(make_spec):
    x = pictures(3, 2, 6, 6)
    found = augment(x, make_spec(**OFF | {"shift": 2}), seeded(3))
    padded = torch.nn.functional.pad(x, (2, 2, 2, 2), mode="reflect")
    offsets = [
        (down, right)
        for down in range(5)
        for right in range(5)
        if torch.equal(padded[..., down : down + 6, right : right + 6], found)
    ]
    assert len(offsets) == 1


def test_every_offset_up_to_the_largest_occurs(make_spec):
    x = pictures(1, 1, 5, 5)
    spec, generator = make_spec(**OFF | {"shift": 1}), seeded()
    found = {augment(x, spec, generator).numpy().tobytes() for _ in range(150)}
    assert len(found) == 9


def test_a_mix_is_a_share_of_another_picture_up_to_the_limit(make_spec):
    x = torch.eye(8).view(8, 8, 1, 1)  # picture i is 1 in channel i alone: the shares can be read
    found = augment(x, make_spec(**OFF | {"mix": 0.3}), seeded()).view(8, 8)
    own = found.diagonal()
    assert (own >= 0.7).all()
    assert (own < 1).any()
    torch.testing.assert_close(found.sum(1), torch.ones(8))
