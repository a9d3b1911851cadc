"""State dicts from disk: what is read, what is unwrapped, and what is refused without being run."""

from __future__ import annotations

import argparse
import pickle
import re
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from edgeq.core.errors import InputError
from edgeq.teacher.checkpoint import load_state_dict

TENSORS = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.count": torch.tensor(7)}


class Bomb:
    """A pickle that would make a file if it were run."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


@pytest.fixture
def saved(tmp_path):
    def save(content: Any) -> Path:
        path = tmp_path / "weights.pth"
        torch.save(content, path)
        return path

    return save


def require_tensors(found: dict[str, np.ndarray]) -> None:
    assert list(found) == list(TENSORS)
    for name, tensor in TENSORS.items():
        np.testing.assert_array_equal(found[name], tensor.numpy())


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(TENSORS, id="bare"),
        pytest.param(OrderedDict(TENSORS), id="ordered"),
        pytest.param({"epoch": 3, "best": 0.9, "state_dict": TENSORS}, id="state_dict"),
        pytest.param({"model": TENSORS, "optimizer": {"state": {0: TENSORS}}}, id="model"),
        pytest.param({"model": {"state_dict": TENSORS}}, id="two-deep"),
        pytest.param({f"module.{n}": t for n, t in TENSORS.items()}, id="data-parallel"),
        pytest.param({f"module._orig_mod.{n}": t for n, t in TENSORS.items()}, id="compiled"),
        pytest.param(
            {"n_averaged": torch.tensor(5), **{f"module.{n}": t for n, t in TENSORS.items()}},
            id="averaged",
        ),
        pytest.param({**TENSORS, "version": 2, "note": "best"}, id="with-other-values"),
    ],
)
def test_a_state_dict_is_found_in_what_training_code_saves(saved, content) -> None:
    require_tensors(load_state_dict(saved(content)))


def test_a_prefix_that_only_some_names_have_is_part_of_the_name(saved) -> None:
    tensors = {"module.a": torch.ones(1), "b": torch.ones(1)}
    assert list(load_state_dict(saved(tensors))) == ["module.a", "b"]


def test_safetensors_is_read(tmp_path) -> None:
    save_file(TENSORS, tmp_path / "w.safetensors")
    found = load_state_dict(tmp_path / "w.safetensors")
    require_tensors({name: found[name] for name in TENSORS})


def test_the_old_format_of_torch_is_read(tmp_path) -> None:
    torch.save(TENSORS, tmp_path / "w.pth", _use_new_zipfile_serialization=False)
    require_tensors(load_state_dict(tmp_path / "w.pth"))


def test_bfloat16_becomes_float32_and_float16_stays(saved) -> None:
    wide = {"b": torch.tensor([1.5], dtype=torch.bfloat16), "h": torch.tensor([1.5]).half()}
    found = load_state_dict(saved(wide))
    assert {name: (array.dtype.name, float(array[0])) for name, array in found.items()} == {
        "b": ("float32", 1.5),
        "h": ("float16", 1.5),
    }


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(nn.Linear(2, 2), id="module"),
        pytest.param({"model": nn.Linear(2, 2)}, id="module-inside"),
        pytest.param({"args": argparse.Namespace(lr=1), "model": TENSORS}, id="namespace"),
        pytest.param([1, 2], id="list"),
        pytest.param({"epoch": 3}, id="no-tensors"),
        pytest.param({"a": torch.ones(2, 2).to_sparse()}, id="sparse"),
        pytest.param({"a": torch.ones(2, device="meta")}, id="meta"),
        pytest.param({"a": torch.ones(1).expand(1 << 40)}, id="larger-than-its-file"),
    ],
)
def test_what_is_no_state_dict_is_refused_with_the_way_to_save_one(saved, content) -> None:
    path = saved(content)
    with pytest.raises(InputError) as raised:
        load_state_dict(path)
    assert raised.value.path == str(path)
    assert "state dict" in raised.value.mend


def test_a_scripted_module_is_refused(tmp_path) -> None:
    path = tmp_path / "scripted.pt"
    with pytest.warns(DeprecationWarning, match="torch.jit.trace"):
        torch.jit.trace(nn.Linear(2, 2), torch.zeros(1, 2)).save(path)
    with pytest.raises(InputError, match=r"cannot be read: .*TorchScript") as caught:
        load_state_dict(path)
    assert "Re-running" not in caught.value.what


def test_a_fault_without_words_is_told_by_its_kind(tmp_path) -> None:
    (tmp_path / "empty.pt").touch()
    with pytest.raises(InputError, match=r"cannot be read: EOFError\n"):
        load_state_dict(tmp_path / "empty.pt")


@pytest.mark.parametrize("form", ["torch", "plain"])
def test_no_code_in_the_file_is_run(tmp_path, form: str) -> None:
    path, mark = tmp_path / "w.pth", tmp_path / "was-run"
    if form == "torch":
        torch.save({"state_dict": TENSORS, "extra": Bomb(mark)}, path)
    else:
        path.write_bytes(pickle.dumps(Bomb(mark)))
    with pytest.raises(InputError) as caught:
        load_state_dict(path)
    assert not mark.exists()
    assert not {"weights_only", "safe_globals"} & set(re.findall(r"\w+", str(caught.value)))
    assert "UnpicklingError: Unsupported" in caught.value.what


@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
@pytest.mark.parametrize("keep", [0, 1, 7, 40, 0.5, -1])
def test_a_file_cut_short_is_refused(tmp_path, name: str, keep: float) -> None:
    path = tmp_path / name
    if name.endswith("pth"):
        torch.save(TENSORS, path)
    else:
        save_file(TENSORS, path)
    data = path.read_bytes()
    path.write_bytes(data[: int(keep * len(data)) if isinstance(keep, float) else keep])
    with pytest.raises(InputError):
        load_state_dict(path)


def test_a_missing_file_is_named(tmp_path) -> None:
    with pytest.raises(InputError, match="no such file"):
        load_state_dict(tmp_path / "none.pth")
