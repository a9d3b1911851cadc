"""Features come back as they went in, and their files have no name that a killed run could leave behind."""

from __future__ import annotations

import errno
import os
import resource
import tempfile
from pathlib import Path

import pytest
import torch

from edgeq.core.errors import InputError
from edgeq.quant.features import FeatureStore


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_values_come_back_batch_by_batch_and_row_by_row():
    x = torch.randn(7, 3, 2)
    found = FeatureStore(batch=3).put(x)
    assert len(found) == 7
    assert torch.equal(torch.cat(list(found.batches(2))), x)
    index = torch.tensor([6, 0, 6])
    assert torch.equal(found.pick(index), x[index])


def test_a_picked_row_is_a_copy():
    found = FeatureStore(batch=4).put(torch.zeros(4, 2))
    found.pick(torch.tensor([1])).add_(1)
    assert torch.cat(list(found.batches(4))).abs().max() == 0


def test_nothing_lies_in_the_folder_for_temporary_files_while_features_are_in_use(folder):
    found = FeatureStore(batch=2).put(torch.ones(5, 4))
    assert list(folder.iterdir()) == []
    assert found.pick(torch.arange(5)).sum() == 20


@pytest.fixture
def small_files():
    """Let this process write no file of more than a megabyte."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_features_that_find_no_room_are_told_before_anything_is_written(folder, small_files):
    store = FeatureStore(batch=2)
    assert len(store.put(torch.ones(2, 2**10))) == 2
    with pytest.raises(InputError, match=r"no room for 4 MB of features") as caught:
        store.put(torch.ones(4, 2**18))
    assert "TMPDIR" in caught.value.mend
    assert list(folder.iterdir()) == []


def test_a_file_system_that_reserves_no_room_is_written_to_as_it_is(monkeypatch):
    def refuse(*_: object) -> None:
        raise OSError(errno.EOPNOTSUPP, "not supported")

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    assert len(FeatureStore(batch=2).put(torch.ones(3, 2))) == 3
