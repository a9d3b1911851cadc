from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from safetensors.numpy import save_file

from edgeq.core.errors import InputError
from edgeq.core.quantized import QuantizedValues
from edgeq.quant.storage import load_values, save_values

VALUES = QuantizedValues(
    scales={"/conv/w": np.float32([0.1, 0.2]), "x": np.array(0.5, np.float32)},
    codes={"/conv/w": np.arange(-6, 6, dtype=np.int8).reshape(3, 4).T},
    floats={"b": np.float32([1.5])},
    channel_factors={"c": np.float32([1, 2])},
)


def test_values_come_back_with_names_shapes_types_and_bits(tmp_path):
    save_values(VALUES, tmp_path / "v.safetensors")
    found = load_values(tmp_path / "v.safetensors")
    for group in ("scales", "codes", "floats", "channel_factors"):
        wanted, got = getattr(VALUES, group), getattr(found, group)
        assert set(got) == set(wanted)
        for name, array in wanted.items():
            assert (got[name].shape, got[name].dtype) == (array.shape, array.dtype)
            np.testing.assert_array_equal(got[name], array)


def test_the_same_values_give_the_same_bytes_whatever_their_order(tmp_path):
    backwards = dataclasses.replace(VALUES, scales=dict(reversed(VALUES.scales.items())))
    save_values(VALUES, tmp_path / "a")
    save_values(backwards, tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize("fault", ["missing", "cut", "empty", "other"])
def test_a_file_that_cannot_be_read_is_told_with_its_path(tmp_path, fault):
    path = tmp_path / "v.safetensors"
    save_values(VALUES, path)
    if fault == "missing":
        path.unlink()
    elif fault == "other":
        save_file({"weights/w": np.zeros(3)}, path)
    else:
        path.write_bytes(path.read_bytes()[: -5 if fault == "cut" else 0])
    with pytest.raises(InputError, match="trained values cannot be read") as caught:
        load_values(path)
    assert caught.value.path == str(path)
    assert "run the build again" in caught.value.mend
