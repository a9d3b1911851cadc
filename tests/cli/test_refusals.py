"""What a chip cannot do is refused by every verb, with the reason and the nearest thing that it can."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

MODEL = "digits_bn.onnx"
INT8_PAIR = """g (float[N,4] x) => (float[N,4] y) <float s = {0.1}, int8 z = {0}>
{ q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z) y = Relu(d) }"""
FP8_PAIR = """<ir_version: 9, opset_import: ["" : 19]> g (float[N,4] x) => (float[N,4] y)
<float s = {0.1}, float8e4m3fn z> { q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z) y = Relu(d) }"""
INT4_CONV = """<ir_version: 10, opset_import: ["" : 21]> g (float[N,4,8,8] x) => (float[N,4,8,8] y)
<int4[4,4,1,1] k, float[4] s = {0.1, 0.2, 0.3, 0.4}, int4[4] z>
{ w = DequantizeLinear<axis=0>(k, s, z) y = Conv(x, w) }"""


@pytest.fixture
def write(parse_graph, tmp_path):
    """Return a function from graph text and arrays to the path of its file."""

    def save(text: str, **arrays: np.ndarray):
        onnx.save(parse_graph(text, **arrays), tmp_path / "m.onnx")
        return tmp_path / "m.onnx"

    return save


@pytest.mark.parametrize("target", ["jetson-nano", "jetson-tx2"])
@pytest.mark.parametrize("verb", ["build", "explain", "engine", "dry-run"])
def test_int8_is_refused_on_chips_without_it(edgeq, digits, tmp_path, monkeypatch, verb, target):
    monkeypatch.chdir(tmp_path)
    words = {"dry-run": ("build", digits / MODEL, "--dry-run")}.get(verb, (verb, digits / MODEL))
    done = edgeq(*words, "--target", target)
    assert done.code == 4
    assert "has no INT8 arithmetic" in done.err
    assert "runs there in FP16" in done.err
    assert "--target jetson-xavier" in done.err
    assert list(tmp_path.iterdir()) == []


def test_a_quantized_file_is_refused_for_a_chip_without_int8(edgeq, write):
    model = write(INT8_PAIR)
    assert edgeq("explain", model, "--target", "jetson-nano").code == 4
    done = edgeq("lint", model, "--target", "jetson-nano")
    assert done.code == 7
    assert "target.int8" in done.out
    assert "--fp16" in done.out


def test_fp8_is_refused_on_orin_and_named_where_a_chip_has_it(edgeq, digits):
    done = edgeq("build", digits / MODEL, "--target", "jetson-orin", "--bits", "fp8")
    assert done.code == 4
    assert "compute capability 8.9" in done.err
    assert "--bits w8a8" in done.err
    assert "--target jetson-thor" in done.err
    done = edgeq("build", digits / MODEL, "--target", "rtx-4090", "--bits", "fp8")
    assert done.code == 3
    assert "edgeq writes no fp8 models" in done.err


@pytest.mark.parametrize("verb", ["build", "explain"])
def test_dla_is_refused_on_thor(edgeq, digits, tmp_path, monkeypatch, verb):
    monkeypatch.chdir(tmp_path)
    done = edgeq(verb, digits / MODEL, "--target", "jetson-thor", "--dla")
    assert done.code == 4
    assert "Thor has no DLA" in done.err
    assert "the GPU runs the model in INT8" in done.err
    assert "--target jetson-orin" in done.err
    assert list(tmp_path.iterdir()) == []


def test_a_file_with_fp8_is_refused_for_orin(edgeq, write):
    zero = onnx.helper.make_tensor("z", onnx.TensorProto.FLOAT8E4M3FN, [], [0.0])
    model = write(FP8_PAIR, z=numpy_helper.to_array(zero))
    done = edgeq("lint", model, "--target", "jetson-orin")
    assert done.code == 7
    assert "qdq.type" in done.out
    assert edgeq("lint", model, "--target", "rtx-4090").code == 0


@pytest.mark.parametrize("target", ["jetson-orin", "rtx-5090", "b200"])
def test_int4_convolutions_are_refused_everywhere(edgeq, write, target):
    done = edgeq("lint", write(INT4_CONV), "--target", target)
    assert done.code == 7
    assert "no version has such convolutions" in done.out
    assert "store the 4-bit grid as INT8" in done.out
