"""Calibration centres: one picture a class, deep layers alone, and the distance from them."""

from __future__ import annotations

import dataclasses
from unittest import mock

import pytest
import torch
from interrupted import Interrupted

import calib.centres
from calib.centres import Centres, _centre, count_steps, deep_start, find_centres
from calib.distances import variance_distance
from calib.statistics import LayerStatistics, measure
from calib.synthesize import synthesize
from edgeq.core.checkpoints import Checkpoints
from edgeq.core.progress import NoProgress
from edgeq.core.specs import BNTable

SILENT = NoProgress()


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("layers", "first"), [(1, 0), (2, 0), (4, 1), (19, 8), (20, 9)])
def test_the_deep_layers_begin_in_the_middle(layers, first):
    assert deep_start(layers) == first


def test_every_class_has_a_centre_in_each_deep_layer(problem, make_spec):
    spec = make_spec(centres="class", centre_iterations=2, batch=3)
    found = find_centres(problem, spec, seed=0, progress=SILENT)
    # Two layers are both deep; five classes come in batches of three.
    assert [layer.mean.shape for layer in found.layers] == [(5, 4), (5, 6)]
    assert all((layer.std > 0).all() for layer in found.layers)
    assert count_steps(problem, spec) == 4
    again = find_centres(problem, spec, seed=0, progress=SILENT)
    assert torch.equal(again.layers[1].mean, found.layers[1].mean)


def test_centres_that_were_made_before_an_interrupt_are_not_made_again(
    problem, make_spec, tmp_path
):
    spec = make_spec(centres="class", centre_iterations=2, batch=2)
    whole, kept = synthesize(problem, spec, seed=0), Checkpoints(tmp_path, "key")
    with pytest.raises(KeyboardInterrupt):  # in the last of three batches of classes
        synthesize(problem, spec, seed=0, progress=Interrupted(5), checkpoints=kept)
    with mock.patch("calib.centres._start", wraps=calib.centres._start) as start:
        found = synthesize(problem, spec, seed=0, checkpoints=kept)
        assert start.call_count == 1
        again = synthesize(
            problem, spec, seed=0, checkpoints=kept
        )  # every batch of samples is there
        assert start.call_count == 1
    assert found.samples.tobytes() == again.samples.tobytes() == whole.samples.tobytes()


def test_a_recipe_without_centres_and_a_network_without_classes_have_none(
    problem, make_problem, make_spec
):
    assert find_centres(problem, make_spec(), seed=0, progress=SILENT) is None
    spec = make_spec(centres="class")
    assert find_centres(make_problem(classes=None), spec, seed=0, progress=SILENT) is None
    bare = dataclasses.replace(problem, table=BNTable(entries=()))
    assert find_centres(bare, spec, seed=0, progress=SILENT) is None
    assert count_steps(problem, make_spec()) == 0


def test_samples_are_held_to_the_centre_of_their_class():
    a = randn(3, 2, 4, 4)
    moments = measure(a)
    centre = LayerStatistics(mean=randn(4, 2, seed=1), std=randn(4, 2, seed=2).abs())
    found = Centres(layers=(None, centre)).term(
        [measure(randn(3, 5, 4, 4)), moments], torch.tensor([2, 0, 2]), pooled=False
    )
    rows = [
        variance_distance(
            moments.sample_mean[i],
            moments.sample_var[i],
            LayerStatistics(mean=centre.mean[y], std=centre.std[y]),
        )
        for i, y in enumerate((2, 0, 2))
    ]
    torch.testing.assert_close(found, torch.stack(rows).mean())


def test_the_pictures_of_the_centres_are_at_no_distance_from_them():
    """So it is for a channel that hardly varies."""
    moments = measure(randn(4, 2, 4, 4) * torch.tensor([1.0, 1e-3]).view(2, 1, 1))
    centres = Centres(layers=(_centre([moments], 4),))
    for pooled in (True, False):
        assert float(centres.term([moments], torch.arange(4), pooled=pooled)) < 1e-13
    other = centres.term([moments], torch.tensor([1, 0, 3, 2]), pooled=False)
    assert float(other) > 0.001


def test_layers_without_positions_have_no_centre():
    assert (
        float(Centres(layers=(None,)).term([measure(randn(3, 2))], torch.arange(3), pooled=True))
        == 0
    )


def test_the_centres_pictures_are_of_their_classes(problem, make_spec):
    """With more steps the centre's picture is seen as its class: so do the samples that are held to it."""
    spec = make_spec(centres="class", centre_iterations=60, centre_rate=0.1, batch=5)
    early, late = (
        find_centres(
            problem, dataclasses.replace(spec, centre_iterations=n), seed=0, progress=SILENT
        )
        for n in (1, 60)
    )

    def spread(centres: Centres) -> float:
        return float(centres.layers[1].mean.var(0).sum())

    assert spread(late) > spread(early)
