"""What keeps ONNX Runtime's CPU provider from integer kernels, found in files of any tool."""

from __future__ import annotations

import pytest

from deploy.cards import load_card
from edgeq.graph.lint import CHECKS, Severity, lint

SOUND = """g (float[1,4,8,8] x) => (float[1,4,8,8] y)
<float sx = {0.5}, uint8 zx = {128}, int8[4,4,1,1] codes, float[4] sw = {0.5,0.5,0.5,0.5}, int8[4] zw = {0,0,0,0},
 int32[4] bias = {1,2,3,4}, float[4] sb = {0.25,0.25,0.25,0.25}, float sr = {0.02}, uint8 zr = {0}, float low = {0.0},
 float high = {6.0}>
{
  xq = QuantizeLinear(x, sx, zx)
  xd = DequantizeLinear(xq, sx, zx)
  wd = DequantizeLinear<axis=0>(codes, sw, zw)
  bd = DequantizeLinear<axis=0>(bias, sb)
  c = Conv(xd, wd, bd)
  r = Clip(c, low, high)
  rq = QuantizeLinear(r, sr, zr)
  y = DequantizeLinear(rq, sr, zr)
}"""


def findings(model, target: str = "cpu") -> list[str]:
    found = [item for item in lint(model, load_card(target)) if item.check.startswith("cpu.")]
    assert all(item.severity is Severity.WARNING for item in found)
    return [item.check for item in found]


def test_a_convolution_between_quantized_tensors_is_sound(parse_graph):
    assert findings(parse_graph(SOUND)) == []


CASES = [
    pytest.param("c = Conv(xd, wd, bd)", "c = Conv(xd, wd, sb)", "cpu.bias", id="float bias"),
    pytest.param("sr = {0.02}", "sr = {0.03}", "cpu.clamp", id="codes above the clamp"),
    pytest.param("uint8 zr = {0}", "uint8 zr = {128}", "cpu.clamp", id="codes below 0"),
    pytest.param("Clip(c, low, high)", "Sigmoid(c)", "cpu.result", id="float reader"),
]


def test_every_check_has_a_case():
    ours = {name for name in CHECKS.names() if CHECKS.get(name).runtime == "onnxruntime"}
    assert {case.values[2] for case in CASES} == ours


@pytest.mark.parametrize(("old", "new", "check"), CASES)
def test_what_keeps_a_layer_in_float_is_found(parse_graph, old, new, check):
    assert old in SOUND
    assert findings(parse_graph(SOUND.replace(old, new))) == [check]


def test_a_result_that_leaves_the_model_in_float_is_found(parse_graph):
    text = SOUND.replace("float[1,4,8,8] y)", "float[1,4,8,8] y, float[1,4,8,8] r)")
    assert findings(parse_graph(text)) == ["cpu.result"]


def test_the_rules_of_the_cpu_are_not_those_of_tensorrt(parse_graph):
    model = parse_graph(SOUND.replace("c = Conv(xd, wd, bd)", "c = Conv(xd, wd, sb)"))
    assert findings(model, "jetson-orin") == []
    assert findings(model, "cpu") == ["cpu.bias"]
