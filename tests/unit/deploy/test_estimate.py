from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import parser

from deploy.cards import card_names, load_card
from deploy.estimate import Estimate, Terms, estimate_latency, peak_tops
from edgeq.core.errors import InputError, TargetError
from edgeq.core.specs import Evidence, Source

# Shares of one and no launch: the roofline itself.
IDEAL = Terms(
    dense_share=(1.0, 0.5), depthwise_share=(0.5, 0.25), memory_share=(1.0, 0.5), launch_us=(0, 7)
)


@pytest.fixture
def save(tmp_path):
    def save(model: onnx.ModelProto | str) -> object:
        model = parser.parse_model(model) if isinstance(model, str) else model
        onnx.save(model, tmp_path / "m.onnx")
        return tmp_path / "m.onnx"

    return save


def test_macs_and_bytes_of_a_float_net_are_those_counted_by_hand(save, teacher, make_card):
    found = estimate_latency(save(teacher), make_card(), batch=2, terms=IDEAL)
    by_node = {item.nodes[0]: item for item in found.regions}
    # 2 samples, 4 channels, 8 x 8 places, 3 x 3 x 3 weights.
    assert by_node["c1"].macs == 2 * 4 * 64 * 27
    # x as float32, w1 and b1 as float16, r1 (behind the Relu of the same kernel) as float16.
    assert by_node["c1"].bytes == 2 * 3 * 64 * 4 + (4 * 27 + 4) * 2 + 2 * 4 * 64 * 2
    # c2, r1 of the shortcut and s: the Add is part of the kernel.
    assert by_node["c2"].ops == "Conv+Add"
    assert by_node["c2"].bytes == 2 * 4 * 64 * 2 + 4 * 36 * 2 + 2 * 4 * 64 * 2
    assert by_node["logits"].macs == 2 * 5 * 4
    assert (by_node["f"].bound, by_node["f"].best_us, by_node["f"].bytes) == ("view", 0, 0)
    assert found.macs == 2 * (4 * 64 * 27 + 4 * 64 * 36 + 20)
    assert found.macs_by_precision == {"fp16 or fp32": found.macs}
    assert found.unknown == ()


def test_the_time_is_the_larger_of_compute_and_memory_and_the_launch(save, teacher, make_card):
    # 20 TOP/s: 2 x 13824 operations take 1.38 ns; 102 GB/s: 2784 bytes take 27.3 ns.
    slow = make_card(fp16_tops=0.001)
    by_memory = estimate_latency(save(teacher), make_card(), batch=2, terms=IDEAL).regions[0]
    by_compute = estimate_latency(save(teacher), slow, batch=2, terms=IDEAL).regions[0]
    assert by_memory.bound == "memory"
    assert by_memory.best_us == pytest.approx(by_memory.bytes / 102e3)
    assert by_memory.worst_us == pytest.approx(by_memory.bytes / 51e3 + 7)
    assert by_compute.bound == "compute"
    assert by_compute.best_us == pytest.approx(2 * 13824 / 1e3)  # 1e9 operations a second
    assert by_compute.worst_us == pytest.approx(2 * 13824 / 0.5e3 + 7)


def test_codes_count_a_byte_and_int8_runs_at_its_own_rate(save, make_card):
    text = """
    <ir_version: 8, opset_import: ["" : 17]>
    g (float[1,16,8,8] x) => (float[1,16,8,8] y)
    <float s = {0.1}, int8 z = {0}> {
      xq = QuantizeLinear (x, s, z)
      xd = DequantizeLinear (xq, s, z)
      wd = DequantizeLinear <axis = 0> (wq, ws, wz)
      c = Conv (xd, wd)
      cq = QuantizeLinear (c, s, z)
      cd = DequantizeLinear (cq, s, z)
      y = Conv (cd, wd)
    }
    """
    model = parser.parse_model(text)
    weights = {"wq": np.zeros((16, 16, 1, 1), np.int8), "ws": np.ones(16, np.float32)}
    weights["wz"] = np.zeros(16, np.int8)
    model.graph.initializer.extend(
        onnx.numpy_helper.from_array(value, name) for name, value in weights.items()
    )
    with pytest.raises(TargetError, match="has no INT8 arithmetic"):
        estimate_latency(save(model), load_card("jetson-nano"))
    found = estimate_latency(save(model), make_card(), terms=IDEAL)
    kernels = {item.nodes[0]: item for item in found.regions}
    assert kernels["xq"].bytes == 16 * 64 * (4 + 1)
    assert kernels["c"].precision == "int8"
    assert kernels["c"].bytes == 16 * 64 + 256 + 16 * 64
    assert kernels["y"].bytes == 16 * 64 + 256 + 16 * 64 * 2
    fast = make_card(int8_tops=1e-3, fp16_tops=5e-4, bandwidth_gb_s=1e6)
    quick = {r.nodes[0]: r for r in estimate_latency(save(model), fast, terms=IDEAL).regions}
    assert quick["c"].best_us == pytest.approx(2 * 16 * 64 * 16 / 1e3)


def test_a_depthwise_convolution_reaches_a_smaller_share(save, make_card):
    text = """
    <ir_version: 8, opset_import: ["" : 17]>
    g (float[1,8,4,4] x, float[8,1,1,1] w) => (float[1,8,4,4] y) { y = Conv <group = 8> (x, w) }
    """
    card = make_card(fp16_tops=1e-3, bandwidth_gb_s=1e6)
    (item,) = estimate_latency(save(text), card, terms=IDEAL).regions
    assert item.macs == 8 * 16
    assert item.best_us == pytest.approx(2 * 8 * 16 / (0.5 * 1e3))


@pytest.mark.parametrize(
    ("capability", "share"), [("5.3", 2), ("7.2", 8), ("7.5", 8), ("8.7", 2), ("10.0", 2)]
)
def test_float32_is_taken_from_the_rate_of_float16(make_card, capability, share):
    card = make_card(compute_capability=capability)
    assert peak_tops("fp32", card) == card.fp16_tops / share
    assert peak_tops("fp16 or fp32", card) == card.fp16_tops
    assert peak_tops("int8 in, fp16 out", card) == card.int8_tops


def test_a_card_without_figures_is_refused():
    with pytest.raises(TargetError, match="no figures to estimate with"):
        estimate_latency("m.onnx", load_card("cpu"))


def test_a_chip_without_int8_is_estimated_in_float_alone(save, teacher):
    found = estimate_latency(save(teacher), load_card("jetson-nano"))
    assert [item.name for item in found.figures] == ["fp16_tops", "bandwidth_gb_s"]


def test_figures_have_their_evidence(save, teacher, make_card):
    source = Source(facts=("int8_tops",), evidence=Evidence.RECALLED, text="A data sheet.")
    found = estimate_latency(save(teacher), make_card(sources=(source,)))
    figures = {item.name: item for item in found.figures}
    assert figures["int8_tops"].evidence == "recalled"
    assert figures["int8_tops"].source == "A data sheet."
    assert figures["bandwidth_gb_s"].evidence == "not stated"


def test_a_dynamic_size_needs_a_shape(save, make_card):
    text = """
    <ir_version: 8, opset_import: ["" : 17]>
    g (float[N,3,H,W] x) => (float[N,3,H,W] y) { y = Relu (x) }
    """
    with pytest.raises(InputError, match="has the dynamic shape"):
        estimate_latency(save(text), make_card())
    found = estimate_latency(save(text), make_card(), shapes={"x": (1, 3, 4, 5)})
    assert found.shapes == {"x": (1, 3, 4, 5)}
    assert found.regions[0].bytes == 60 * (4 + 2)


def test_the_estimate_survives_json(save, teacher, make_card):
    found = estimate_latency(save(teacher), make_card())
    assert Estimate.from_dict(found.to_dict()) == found


@pytest.mark.parametrize("name", [name for name in card_names() if name != "cpu"])
def test_every_gpu_card_can_be_estimated_for(save, teacher, name):
    found = estimate_latency(save(teacher), load_card(name))
    assert 0 < found.best_ms < found.worst_ms


@pytest.mark.parametrize(
    "words",
    [{"batch": 10**20}, {"batch": 0}, {"batch": -1}, {"shapes": {"x": (10**20, 3, 8, 8)}}],
    ids=str,
)
def test_a_size_that_no_tensor_can_have_is_refused(save, teacher, make_card, words):
    with pytest.raises(InputError, match="a size is 1 at least"):
        estimate_latency(save(teacher), make_card(), **words)
