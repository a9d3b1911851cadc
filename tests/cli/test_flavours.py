"""Builds of each flavour: what ships has the types that the target wants, or that the user's file has."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper, version_converter


def scale_types(path: Path) -> set[int]:
    graph = onnx.load(path).graph
    scales = {n.input[1] for n in graph.node if n.op_type.endswith("quantizeLinear")}
    scales |= {n.input[1] for n in graph.node if n.op_type == "QuantizeLinear"}
    return {item.data_type for item in graph.initializer if item.name in scales}


def narrow(model: onnx.ModelProto, kind: int) -> None:
    """Make a float32 model one of half precision, in place."""
    dtype = helper.tensor_dtype_to_np_dtype(kind)
    for item in model.graph.initializer:
        if item.data_type == TensorProto.FLOAT:
            values = numpy_helper.to_array(item).astype(dtype)
            item.CopyFrom(numpy_helper.from_array(values, item.name))
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.elem_type = kind
    del model.graph.value_info[:]


@pytest.fixture(scope="module")
def half_file(digits, tmp_path_factory) -> Path:
    """Return the digits network as a float16 file."""
    model = onnx.load(digits / "digits_bn.onnx")
    narrow(model, TensorProto.FLOAT16)
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


@pytest.mark.parametrize(
    "kind", [TensorProto.FLOAT16, TensorProto.BFLOAT16], ids=["float16", "bfloat16"]
)
@pytest.mark.parametrize(("target", "newest"), [("jetson-orin", 20), ("cpu", 21)])
def test_a_half_file_of_a_newer_opset_is_lowered_and_keeps_the_types_of_its_border(
    edgeq, digits, tiny, tmp_path, kind, target, newest
):
    model = version_converter.convert_version(onnx.load(digits / "digits_bn.onnx"), 22)
    narrow(model, kind)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, tmp_path / "net.onnx")
    done = edgeq("build", tmp_path / "net.onnx", "--target", target, *tiny, "--out", tmp_path / "o")
    assert done.code == 0, done.err
    assert f"note: opset 22 was lowered to {newest}, the newest that '{target}'" in done.out
    made = onnx.load(tmp_path / "o" / "model.qdq.onnx")
    onnx.checker.check_model(made, full_check=True)
    assert made.opset_import[0].version == newest
    border = {v.type.tensor_type.elem_type for v in (*made.graph.input, *made.graph.output)}
    assert border == {kind}
    is_half = kind == TensorProto.FLOAT16 and target == "jetson-orin"
    inside = TensorProto.FLOAT16 if is_half else TensorProto.FLOAT
    assert scale_types(tmp_path / "o" / "model.qdq.onnx") == {inside}


def test_an_operator_that_the_target_lacks_is_named_by_every_verb(edgeq, parse_graph, tmp_path):
    text = """<ir_version: 12, opset_import: ["" : 24]> g (float[N,3,8,8] x) => (float[N,4,6,6] y)
    <float[4,3,3,3] w> { c = Conv (x, w) y = Swish (c) }"""
    onnx.save(parse_graph(text), tmp_path / "net.onnx")
    for verb in ("build", "explain"):
        done = edgeq(verb, tmp_path / "net.onnx", "--target", "jetson-orin")
        assert done.code == 4
        assert "no equal form of Swish 'y' (opset 24 brought it in)" in done.err
        assert "mend: export the model again with opset 20" in done.err
