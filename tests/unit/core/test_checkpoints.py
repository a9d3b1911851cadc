"""Checkpoints come back as they were, for the same key alone, and never stand in the way of a run."""

from __future__ import annotations

import logging

import numpy as np
import pytest

from edgeq.core import checkpoints
from edgeq.core.checkpoints import Checkpoint, Checkpoints

STATE = Checkpoint.of_parts(
    {
        "a": {"x": np.arange(6, dtype=np.float32).reshape(2, 3), "step": np.array(3.0)},
        "b": {"x": np.arange(4)[::2]},
    },
    {"rows": [{"loss": 0.1 + 0.2}], "steps": 7},
)


@pytest.fixture
def kept(tmp_path) -> Checkpoints:
    return Checkpoints(tmp_path / "checkpoints", "key")


def test_a_state_comes_back_as_it_was(kept):
    kept.save("loop", STATE)
    found = kept.load("loop")
    assert found is not None
    assert found.notes == STATE.notes
    for part in ("a", "b"):
        for name, array in STATE.part(part).items():
            assert found.part(part)[name].dtype == array.dtype
            np.testing.assert_array_equal(found.part(part)[name], array)


def test_a_later_state_takes_the_place_of_an_earlier_one(kept):
    kept.save("loop", STATE)
    kept.save("loop", Checkpoint({}, {"steps": 8}))
    assert kept.load("loop") == Checkpoint({}, {"steps": 8})


def test_nothing_is_found_under_another_name_or_key(kept, tmp_path):
    kept.save("loop", STATE)
    assert kept.load("another") is None
    assert Checkpoints(tmp_path / "checkpoints", "another key").load("loop") is None


def test_a_finished_stage_leaves_nothing(kept, tmp_path):
    kept.save("loop", STATE)
    kept.clear()
    assert kept.load("loop") is None
    assert list(tmp_path.iterdir()) == []
    kept.clear()


@pytest.mark.parametrize("length", [0, 5, 200, -1])
def test_a_file_that_was_cut_off_is_told_and_not_used(kept, tmp_path, caplog, length):
    kept.save("loop", STATE)
    path = tmp_path / "checkpoints" / "loop.safetensors"
    path.write_bytes(path.read_bytes()[:length])
    assert kept.load("loop") is None
    assert "loop.safetensors cannot be read" in caplog.text


@pytest.mark.parametrize("place", [-1, -30])
def test_a_file_in_which_a_byte_has_changed_is_told_and_not_used(kept, tmp_path, caplog, place):
    kept.save("loop", STATE)
    path = tmp_path / "checkpoints" / "loop.safetensors"
    damaged = bytearray(path.read_bytes())
    damaged[place] ^= 1
    path.write_bytes(damaged)
    assert kept.load("loop") is None
    assert "loop.safetensors cannot be read" in caplog.text


def test_a_disk_without_room_ends_no_run(kept, tmp_path, caplog):
    (tmp_path / "checkpoints").write_bytes(b"a file where the folder should be")
    with caplog.at_level(logging.WARNING, "edgeq"):
        kept.save("loop", STATE)
    assert "no checkpoint of loop" in caplog.text


def test_without_a_folder_nothing_is_kept(monkeypatch):
    monkeypatch.setattr(checkpoints, "EVERY_S", 0.0)
    nothing = Checkpoints()
    nothing.save("loop", STATE)
    assert nothing.load("loop") is None
    assert not nothing.is_due()
    nothing.clear()


def test_a_checkpoint_is_due_when_the_last_one_is_old(kept, monkeypatch):
    assert not kept.is_due()
    monkeypatch.setattr(checkpoints, "EVERY_S", 0.0)
    assert kept.is_due()
