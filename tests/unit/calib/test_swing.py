"""Swing convolution: strided convolutions look at a grid that moves, others stay as they are."""

from __future__ import annotations

import torch

from calib.swing import Swing, add_swing
from edgeq.teacher.importer import import_teacher
from edgeq.teacher.teacher import with_outputs

STRIDED = """g (float[N,2,8,8] x) => (float[N,3,4,4] y)
<float[2,2,3,3] w0, float[3,2,1,1] w1>
{ c = Conv<pads=[1,1,1,1]>(x, w0) y = Conv<strides=[2,2]>(c, w1) }"""


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_without_reach_it_is_the_identity():
    x = torch.randn(2, 3, 5, 5, generator=seeded())
    assert torch.equal(Swing(0, seeded())(x), x)


def test_every_offset_within_reach_comes_up_and_the_borders_are_reflected():
    x = torch.arange(16.0).view(1, 1, 4, 4)
    swing = Swing(1, seeded())
    found = {tuple(swing(x).flatten().tolist()) for _ in range(200)}
    assert len(found) == 9
    assert tuple(x.flatten().tolist()) in found
    up = tuple(x[0, 0, [1, 0, 1, 2]].flatten().tolist())
    assert up in found


def test_a_picture_too_small_to_be_reflected_stays():
    x = torch.randn(2, 3, 1, 1, generator=seeded())
    assert Swing(1, seeded())(x) is x


def test_only_strided_convolutions_swing(parse_graph):
    teacher = import_teacher(parse_graph(STRIDED))
    x = torch.randn(1, 2, 8, 8, generator=seeded())
    plain = with_outputs(teacher, ["c"])
    swung = with_outputs(teacher, ["c"])
    assert add_swing(swung, 1, seeded()) == 1
    (wanted,), (inner,) = plain(x)
    seen = [swung(x) for _ in range(12)]
    assert all(torch.equal(captured, inner) for _, (captured,) in seen)
    assert any(not torch.equal(y, wanted) for (y,), _ in seen)
    assert all(y.shape == wanted.shape for (y,), _ in seen)
    # The teacher itself is not changed.
    assert torch.equal(teacher.module(x)[0], wanted)
    assert add_swing(plain, 0, seeded()) == 0
    assert torch.equal(plain(x)[0][0], wanted)
