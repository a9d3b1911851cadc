from __future__ import annotations

import numpy as np
import onnx
import pytest

from deploy.onnxrt import run_onnx
from edgeq.graph.strip_qdq import complete_scales, strip_qdq

# Codes of the first channel of w reach 127, those of the second 60.
TEXT = """g (float[N,2,4,4] x) => (float[N,2,4,4] y)
<float s = {0.02}, float t = {0.05}, int8 z = {0}, float[2] sw, int8[2] zw, int8[2,2,1,1] w, float[2] b>
{ xq = QuantizeLinear (x, s, z) xd = DequantizeLinear (xq, s, z)
  wd = DequantizeLinear<axis=0> (w, sw, zw) c = Conv (xd, wd, b) r = Relu (c)
  rq = QuantizeLinear (r, t, z) rd = DequantizeLinear (rq, t, z) y = Sigmoid (rd) }"""
CODES = np.int8([[127, 3], [60, -60]]).reshape(2, 2, 1, 1)
SCALES = np.float32([0.01, 0.04])


@pytest.fixture
def model(parse_graph) -> onnx.ModelProto:
    return parse_graph(TEXT, w=CODES, sw=SCALES, zw=np.zeros(2, np.int8))


def test_no_quantizer_is_left_and_the_weights_stay_what_they_were(model):
    before = model.SerializeToString()
    found = strip_qdq(model)
    assert model.SerializeToString() == before
    onnx.checker.check_model(found.model, full_check=True)
    assert [node.op_type for node in found.model.graph.node] == ["Conv", "Relu", "Sigmoid"]
    held = {i.name: onnx.numpy_helper.to_array(i) for i in found.model.graph.initializer}
    assert held.keys() == {"wd", "b"}
    np.testing.assert_array_equal(held["wd"], CODES * SCALES.reshape(2, 1, 1, 1))


def test_the_float_model_computes_the_same_within_the_steps_that_are_gone(model):
    x = {"x": np.random.default_rng(0).uniform(-1, 1, (3, 2, 4, 4)).astype(np.float32)}
    want, got = (run_onnx(item, x)["y"] for item in (model, strip_qdq(model).model))
    # Half a step of x through the largest row of weights, and half a step of r; a sigmoid has a slope of 1/4.
    gain = np.abs(CODES * SCALES.reshape(2, 1, 1, 1)).sum(axis=1).max()
    assert np.abs(want - got).max() <= (0.01 * gain + 0.025) / 4 + 1e-6


def test_scales_are_kept_by_the_tensor_that_was_quantized(model):
    found = strip_qdq(model)
    assert found.scales == {"x": float(np.float32(0.02)), "r": float(np.float32(0.05))}
    assert (found.channels, found.regridded) == (2, 1)


def test_a_weight_that_is_stored_in_float_keeps_its_values(parse_graph):
    text = TEXT.replace("int8[2,2,1,1] w", "float[2,2,1,1] w").replace(
        "wd = DequantizeLinear<axis=0> (w, sw, zw)",
        "wq = QuantizeLinear<axis=0> (w, sw, zw) wd = DequantizeLinear<axis=0> (wq, sw, zw)",
    )
    stored = CODES.astype(np.float32) * SCALES.reshape(2, 1, 1, 1)
    model = parse_graph(text, w=stored, sw=SCALES, zw=np.zeros(2, np.int8))
    found = strip_qdq(model)
    assert found.regridded == 1
    held = {i.name: onnx.numpy_helper.to_array(i) for i in found.model.graph.initializer}
    np.testing.assert_array_equal(held["wd"], stored)


def test_every_tensor_gets_a_scale_trained_fused_or_measured(model):
    found = strip_qdq(model)
    scales = complete_scales(found.model, found.scales, {"y": 0.5, "c": 99.0})
    assert list(scales) == ["x", "c", "r", "y"]
    assert scales["c"] == scales["r"] == found.scales["r"]
    assert scales["y"] == pytest.approx(0.5 / 127)
    assert complete_scales(found.model, found.scales, {})["y"] == 1.0
