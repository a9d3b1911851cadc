"""Steps of the network that a GPU replays make the samples that steps run one by one make."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from fake_recorder import FakeRecorder

from calib.estimate import with_targets
from calib.synthesize import synthesize
from edgeq.core.recipes import load_recipe
from edgeq.teacher.compute import Compute
from edgeq.teacher.replay import WARM_UP

BATCHES, ITERATIONS = 3, 4
SMALL = {
    "samples": 4 * BATCHES,
    "batch": 4,
    "iterations": ITERATIONS,
    "centre_iterations": 2,
    "leaves_per_sample": 0.0,
}


def run(problem, spec):
    return synthesize(with_targets(problem, spec, seed=0), spec, seed=0)


def run_recorded(problem, spec, monkeypatch):
    recorder = FakeRecorder()
    monkeypatch.setattr(Compute, "recorder", lambda _: recorder)
    return run(problem, spec), recorder


# texq draws confidences of classes, synq crops and has centres, dsg a spectrum.
@pytest.mark.parametrize("name", ["edgeq", "dsg", "synq", "texq", "zeroq"])
def test_all_batches_share_one_recording_and_are_the_same(problem, name, monkeypatch):
    spec = dataclasses.replace(load_recipe(name).synthesis, **SMALL)
    wanted = run(problem, spec)
    found, recorder = run_recorded(problem, spec, monkeypatch)
    assert recorder.recorded == 1
    assert recorder.replayed == 1 + BATCHES * ITERATIONS - WARM_UP - 1  # one of them proves it
    np.testing.assert_allclose(found.samples, wanted.samples, atol=1e-5)
    assert np.array_equal(found.labels, wanted.labels)
    for row, expected in zip(found.history, wanted.history, strict=True):
        assert row == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("chosen", [{"swing": 1}, {"margin": 1.0}])
def test_what_chooses_on_the_host_is_not_recorded(problem, make_spec, chosen, monkeypatch):
    spec = make_spec(**(SMALL | chosen))
    wanted = run(problem, spec)
    found, recorder = run_recorded(problem, spec, monkeypatch)
    assert recorder.recorded == 0
    assert found.samples.tobytes() == wanted.samples.tobytes()


def test_samples_that_the_network_has_no_say_in_are_moved_all_the_same(
    problem, make_spec, monkeypatch
):
    own = {"batch_statistics": 0.0, "sample_statistics": 0.0, "label": 0.0}
    own |= {"decorrelation": 0.0, "total_variation": 1.0}
    spec = make_spec(**(SMALL | own))
    wanted = run(problem, spec)
    found, _ = run_recorded(problem, spec, monkeypatch)
    assert list(found.history[0]) == ["step", "variation", "loss"]
    np.testing.assert_allclose(found.samples, wanted.samples, atol=1e-5)
