"""Builds of each flavour: what ships has the types that the target wants, or that the user's file has."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper


def scale_types(path: Path) -> set[int]:
    graph = onnx.load(path).graph
    scales = {n.input[1] for n in graph.node if n.op_type.endswith("quantizeLinear")}
    scales |= {n.input[1] for n in graph.node if n.op_type == "QuantizeLinear"}
    return {item.data_type for item in graph.initializer if item.name in scales}


@pytest.fixture(scope="module")
def half_file(digits, tmp_path_factory) -> Path:
    """Return the digits network as a float16 file."""
    model = onnx.load(digits / "digits_bn.onnx")
    for item in model.graph.initializer:
        if item.data_type == TensorProto.FLOAT:
            values = numpy_helper.to_array(item).astype(np.float16)
            item.CopyFrom(numpy_helper.from_array(values, item.name))
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.elem_type = TensorProto.FLOAT16
    del model.graph.value_info[:]
    path: Path = tmp_path_factory.mktemp("half") / "half.onnx"
    onnx.save(model, path)
    return path


def test_a_target_of_strong_typing_gets_a_half_graph_by_default(edgeq, digits, tiny, tmp_path):
    done = edgeq(
        "build", digits / "digits_bn.onnx", "--target", "rtx-4090", *tiny, "--out", tmp_path / "o"
    )
    assert done.code == 0, done.err
    assert "fp16-typed: " in done.out
    assert scale_types(tmp_path / "o" / "model.qdq.onnx") == {TensorProto.FLOAT16}
    typing = json.loads((tmp_path / "o" / "results.json").read_text())["typing"]
    assert typing["flavour"] == "fp16-typed"
    assert typing["against_fp32"]["sqnr_db"]["logits"] > 20
    assert json.loads((tmp_path / "o" / "codes.json").read_text())["largest"] <= 1
    record = json.loads((tmp_path / "o" / "bundle" / "bundle.json").read_text())
    assert record["graph_flavour"] == "fp16-typed"
    assert record["engine"]["is_weak"] is False
    assert "--stronglyTyped" in record["trtexec"]["build"]
    assert "--int8" not in record["trtexec"]["build"]


@pytest.mark.parametrize(
    ("target", "kind"), [("jetson-orin", TensorProto.FLOAT16), ("jetson-xavier", TensorProto.FLOAT)]
)
def test_a_float16_file_comes_back_in_its_type_where_the_target_allows(
    edgeq, half_file, tiny, tmp_path, target, kind
):
    done = edgeq("build", half_file, "--target", target, *tiny, "--out", tmp_path / "o")
    assert done.code == 0, done.err
    made = onnx.load(tmp_path / "o" / "model.qdq.onnx")
    border = {v.type.tensor_type.elem_type for v in (*made.graph.input, *made.graph.output)}
    assert border == {TensorProto.FLOAT16}
    assert scale_types(tmp_path / "o" / "model.qdq.onnx") == {kind}
    casts = [node for node in made.graph.node if node.op_type == "Cast"]
    assert len(casts) == (0 if kind == TensorProto.FLOAT16 else 2)


def test_a_flavour_that_the_target_cannot_take_is_refused_before_any_work(edgeq, digits, tmp_path):
    model = digits / "digits_bn.onnx"
    words = ("--target", "jetson-xavier", "--flavour", "fp16-typed", "--out", tmp_path / "o")
    done = edgeq("build", model, *words)
    assert done.code == 4
    assert "strong typing came with TensorRT 10" in done.err
    assert not (tmp_path / "o").exists()
    assert edgeq("build", model, "--target", "cpu", "--flavour", "fp8").code == 3
