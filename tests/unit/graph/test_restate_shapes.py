"""Shapes that a file notes give way where its own graph contradicts them, and nowhere else."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from edgeq.graph.read import load_model
from edgeq.graph.restate_shapes import restate_shapes
from edgeq.graph.view import GraphView

TEXT = """g (float[N,3,8,8] x) => (float[N,4,8,8] y) <float[4,3,3,3] w>
{ c = Conv<pads=[1,1,1,1]>(x, w) y = Relu(c) }"""


@pytest.fixture
def model(parse_graph) -> onnx.ModelProto:
    found: onnx.ModelProto = parse_graph(TEXT)
    del found.graph.value_info[:]
    return found


def note(model: onnx.ModelProto, *shape: int | str) -> None:
    model.graph.value_info.append(helper.make_tensor_value_info("c", TensorProto.FLOAT, shape))


def load(model: onnx.ModelProto, folder: Path):
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return load_model(path)


def test_a_note_that_the_graph_contradicts_goes_and_that_is_told(model, tmp_path):
    note(model, 1, 4, 16, 16)
    before = model.SerializeToString()
    loaded = load(model, tmp_path)
    assert GraphView(loaded.inferred).shape("c") == (None, 4, 8, 8)
    onnx.checker.check_model(loaded.model, full_check=True)
    assert any("contradict" in finding for finding in loaded.findings)
    assert model.SerializeToString() == before


def test_notes_that_fit_stay(model):
    note(model, "N", 4, 8, 8)
    result = restate_shapes(model)
    assert (result.model, result.changed, result.findings) == (model, False, ())


@pytest.mark.parametrize("batch", [8, "N"])
def test_an_output_of_another_size_gets_the_one_of_the_graph(model, tmp_path, batch):
    for item in (*model.graph.input, *model.graph.output):
        item.type.tensor_type.shape.dim[0].dim_value = 1
    model.graph.input[0].CopyFrom(
        helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 3, 16, 16])
    )
    loaded = load(model, tmp_path)
    size = batch if isinstance(batch, int) else None
    assert GraphView(loaded.model).shape("y") == (size, 4, 16, 16)
    onnx.checker.check_model(loaded.model, full_check=True)
    assert any("'y'" in finding for finding in loaded.findings)


def test_an_output_without_a_shape_gets_the_one_of_the_graph(model, tmp_path):
    model.graph.output[0].type.tensor_type.ClearField("shape")
    loaded = load(model, tmp_path)
    assert GraphView(loaded.model).shape("y") == (None, 4, 8, 8)


def test_restating_twice_is_restating_once(model):
    note(model, 1, 4, 16, 16)
    model.graph.output[0].type.tensor_type.shape.dim[2].dim_value = 99
    once = restate_shapes(model)
    assert once.changed
    assert not restate_shapes(once.model).changed


def test_a_graph_that_is_refused_without_its_notes_is_left_to_others(model):
    note(model, 1, 4, 16, 16)
    model.graph.node[0].op_type = "MatMul"
    del model.graph.node[0].attribute[:]
    result = restate_shapes(model)
    assert (result.model, result.changed) == (model, False)
