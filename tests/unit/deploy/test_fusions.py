"""What ONNX Runtime's optimiser is read to have made of a model."""

from __future__ import annotations

import numpy as np
import pytest

from deploy.cards import load_card
from deploy.fusions import read_fusions
from edgeq.core.numerics import choose_scale, quantize
from edgeq.core.plan import Role
from edgeq.core.quantized import QuantizedValues
from edgeq.core.specs import BitSpec
from edgeq.graph.insert_qdq import insert_qdq
from edgeq.graph.placement import plan_placement
from edgeq.graph.view import GraphView

NET = """g (float[N,4,8,8] x) => (float[N,4] y)
<float[16,4,3,3] w0, float[16] b0, float[16,16,3,3] w1, float[16] b1, float[4,16] w2, float[4] b2,
 float low = {0.0}, float high = {6.0}>
{
  [stem] c0 = Conv<pads=[1,1,1,1]>(x, w0, b0)
  r0 = Clip(c0, low, high)
  c1 = Conv<pads=[1,1,1,1]>(r0, w1, b1)
  s = Add(c1, r0)
  r1 = Relu(s)
  m = MaxPool<kernel_shape=[2,2],strides=[2,2]>(r1)
  p = GlobalAveragePool(m)
  f = Flatten(p)
  y = Gemm<transB=1>(f, w2, b2)
}"""


def quantized(model, target: str, *, limit: bool = True):
    card = load_card(target)
    plan = plan_placement(model, card=card, bits=BitSpec.parse("w8a8"), inputs=())
    view, rng = GraphView(model), np.random.default_rng(0)
    scales, codes = {}, {}
    for item in plan.quantized():
        grid, name = item.grid, item.tensor
        if item.role is Role.ACTIVATION:
            bound = 6.0 if limit and name == "r0" else 6.5
            scales[name] = choose_scale(bound, high=grid.high)
        else:
            weight = rng.normal(0, 0.1, view.shape(name)).astype(np.float32)
            amax = np.abs(weight).reshape(len(weight), -1).max(1)
            scales[name] = choose_scale(amax, high=grid.high)
            codes[name] = quantize(weight, scales[name], low=grid.low, high=grid.high)
    for item in plan.quantized():
        scales[item.tensor] = scales[plan.owner_of(item.tensor)]
    values = QuantizedValues(scales=scales, codes=codes, floats={})
    return insert_qdq(model, plan, values, card=card).model


@pytest.fixture
def x() -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(1).normal(0, 2, (4, 4, 8, 8)).astype(np.float32)}


def test_the_cpu_flavour_is_computed_on_integers_from_the_input_to_the_logits(parse_graph, x):
    report = read_fusions(quantized(parse_graph(NET), "cpu"), x)
    assert report.floats == ()
    assert report.conversions == 1
    assert report.integer == {
        "QLinearConv": 2,
        "QLinearAdd": 1,
        "QLinearGlobalAveragePool": 1,
        "QGemm": 1,
    }
    assert report.sqnr_db["y"] > 25
    assert "none in float" in report.summary()


def test_a_clip_below_the_range_of_its_codes_keeps_a_convolution_in_float(parse_graph, x):
    report = read_fusions(quantized(parse_graph(NET), "cpu", limit=False), x)
    assert any("stem" in name for name in report.floats)
    assert f"{len(report.floats)} in float" in report.summary()


def test_a_file_for_tensorrt_is_mostly_computed_in_float(parse_graph, x):
    report = read_fusions(quantized(parse_graph(NET), "jetson-orin"), x)
    assert "QLinearConv" not in report.integer
    assert len(report.floats) >= 2
