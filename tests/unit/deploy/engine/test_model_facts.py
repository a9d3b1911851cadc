from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from deploy.engine.model_facts import MeantNode, read_facts
from edgeq.core.errors import InputError, ModelError


def replace_constant(path: Path, name: str, value: np.generic) -> None:
    model = onnx.load(path)
    (found,) = [item for item in model.graph.initializer if item.name == name]
    found.CopyFrom(numpy_helper.from_array(np.asarray(value), name))
    onnx.save(model, path)


def test_products_of_two_dequantized_int8_factors_are_meant(model: Path) -> None:
    assert read_facts(model).meant == (
        MeantNode(name="conv1", operator="Conv"),
        MeantNode(name="node_of_c2", operator="Conv"),
    )


def test_a_node_without_a_name_is_called_as_the_parser_calls_it(model: Path) -> None:
    names = read_facts(model).names
    assert names[3] == "conv1"
    assert names[4] == "node_of_r"
    assert len(names) == 14


def test_another_type_of_the_zero_point_is_no_int8(model: Path) -> None:
    replace_constant(model, "z", np.uint8(0))
    assert read_facts(model).meant == ()


@pytest.mark.parametrize(
    ("scale", "flavour"), [(np.float32(0.5), "fp32-typed"), (np.float16(0.5), "fp16-typed")]
)
def test_the_scales_tell_the_flavour(model: Path, scale: np.generic, flavour: str) -> None:
    replace_constant(model, "s", scale)
    assert read_facts(model).flavour == flavour


def test_a_missing_file_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the model cannot be read"):
        read_facts(tmp_path / "absent.onnx")


def test_a_pipe_is_refused_without_waiting_for_it(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.onnx")
    with pytest.raises(InputError, match="no ordinary file"):
        read_facts(tmp_path / "a.onnx")


@pytest.mark.parametrize("data", [b"", b"no onnx at all"])
def test_a_file_that_is_no_onnx_is_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "a.onnx"
    path.write_bytes(data)
    with pytest.raises(ModelError, match="this is no ONNX model"):
        read_facts(path)


def test_weights_beside_the_file_are_not_needed(model: Path) -> None:
    whole = onnx.load(model)
    onnx.save(whole, model, save_as_external_data=True, location="weights.bin", size_threshold=0)
    (model.parent / "weights.bin").unlink()
    assert len(read_facts(model).meant) == 2


def test_a_file_is_onnx_whatever_its_suffix(model: Path) -> None:
    facts = read_facts(model)
    assert read_facts(model.rename(model.with_suffix(".json"))) == facts
