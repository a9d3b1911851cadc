"""What is written for ONNX Runtime's CPU kernels: containers, biases, and the forms that they are faster on."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

from deploy.cards import load_card
from deploy.code_agreement import read_codes
from edgeq.core.errors import EdgeqBug
from edgeq.core.numerics import choose_scale, quantize
from edgeq.core.plan import QuantPlan, Role
from edgeq.core.quantized import QuantizedValues
from edgeq.core.specs import BitSpec
from edgeq.graph.insert_qdq import insert_qdq
from edgeq.graph.integer_forms import fit_kernels
from edgeq.graph.lint import lint
from edgeq.graph.placement import plan_placement
from edgeq.graph.unread import names_read
from edgeq.graph.view import GraphView

CPU = load_card("cpu")

NET = """g (float[N,3,8,8] x) => (float[N,16] y)
<float[16,3,3,3] w0, float[16] b0, float[16,16,3,3] w1, float[16] b1, float[16,16] w2,
 int64[8] pads = {0,0,1,1,0,0,1,1}>
{
  c0 = Conv<pads=[1,1,1,1]>(x, w0, b0)
  r0 = Relu(c0)
  pad = Pad(r0, pads)
  c1 = Conv(pad, w1, b1)
  s = Add(c1, r0)
  p = GlobalAveragePool(s)
  f = Flatten(p)
  y = Gemm<transB=1>(f, w2)
}"""


SHORTCUT = """g (float[N,3,8,8] x) => (float[N,32,4,4] y)
<float[16,3,3,3] w0, float[32,16,3,3] w1, int64[8] pads = {0,8,0,0,0,8,0,0}, int64[2] starts = {0,0},
 int64[2] ends = {9223372036854775807,9223372036854775807}, int64[2] axes = {2,3}, int64[2] steps = {2,2}>
{
  c0 = Conv<pads=[1,1,1,1]>(x, w0)
  r0 = Relu(c0)
  c1 = Conv<pads=[1,1,1,1], strides=[2,2]>(r0, w1)
  half = Slice(r0, starts, ends, axes, steps)
  wide = Pad(half, pads)
  s = Add(c1, wide)
  y = Relu(s)
}"""


@pytest.fixture
def model(parse_graph) -> onnx.ModelProto:
    return with_weights(parse_graph(NET))


@pytest.fixture
def shortcut(parse_graph) -> onnx.ModelProto:
    return with_weights(parse_graph(SHORTCUT))


def with_weights(graph: onnx.ModelProto) -> onnx.ModelProto:
    rng = np.random.default_rng(0)
    for item in graph.graph.initializer:
        if item.data_type == onnx.TensorProto.FLOAT:
            value = rng.normal(0, 0.3, list(item.dims)).astype(np.float32)
            item.CopyFrom(numpy_helper.from_array(value, item.name))
    return graph


@pytest.fixture
def x() -> np.ndarray:
    return np.random.default_rng(1).normal(0, 1, (2, 3, 8, 8)).astype(np.float32)


def make_plan(model: onnx.ModelProto, bits: str = "w8a8") -> QuantPlan:
    return plan_placement(model, card=CPU, bits=BitSpec.parse(bits), inputs=())


def make_values(model: onnx.ModelProto, plan: QuantPlan) -> QuantizedValues:
    view = GraphView(model)
    scales, codes = {}, {}
    for item in plan.quantized():
        grid = item.grid
        if item.role is Role.ACTIVATION:
            scales[item.tensor] = choose_scale(2.0, high=grid.high)
            continue
        weight = view.constant(item.tensor)
        amax = np.abs(weight).reshape(len(weight), -1).max(1)
        scales[item.tensor] = choose_scale(amax, high=grid.high)
        codes[item.tensor] = quantize(
            weight, scales[item.tensor], low=grid.low, high=grid.high, axis=0
        )
    for item in plan.quantized():
        scales[item.tensor] = scales[plan.owner_of(item.tensor)]
    return QuantizedValues(scales=scales, codes=codes, floats={})


def run(model: onnx.ModelProto, x: np.ndarray, *, optimise: bool = False) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    level = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = level.ORT_ENABLE_ALL if optimise else level.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model.SerializeToString(), options).run(None, {"x": x})[0]


def write(model: onnx.ModelProto, bits: str = "w8a8") -> onnx.ModelProto:
    plan = make_plan(model, bits)
    return insert_qdq(model, plan, make_values(model, plan), card=CPU).model


def zero_point(model: onnx.ModelProto, node: str) -> np.ndarray:
    view = GraphView(model)
    return view.constant(view.producer(node).input[2])


def test_codes_of_activations_travel_in_uint8_and_a_signed_grid_around_128(model):
    written = write(model)
    signed, unsigned = zero_point(written, "x/q"), zero_point(written, "r0/q")
    assert (signed.dtype, int(signed)) == (np.uint8, 128)
    assert (unsigned.dtype, int(unsigned)) == (np.uint8, 0)


def test_weights_are_int8_with_zero_point_0(model):
    written = write(model)
    assert zero_point(written, "w1/dq").dtype == np.int8
    assert not zero_point(written, "w1/dq").any()


def test_a_bias_is_int32_in_the_unit_of_the_accumulator(model):
    plan = make_plan(model)
    values = make_values(model, plan)
    view = GraphView(insert_qdq(model, plan, values, card=CPU).model)
    codes, scale = (view.constant(name) for name in view.producer("b0/dq").input[:2])
    assert codes.dtype == np.int32
    np.testing.assert_array_equal(scale, values.scales["x"] * values.scales["w0"])
    bias = GraphView(model).constant("b0")
    np.testing.assert_allclose(codes * scale, bias, atol=float(scale.max()) / 2)


def test_a_pad_between_equal_scales_works_on_codes(model):
    written = write(model)
    view = GraphView(written)
    pad = view.producer("pad/q")
    assert pad.op_type == "Pad"
    assert view.producer(pad.input[0]).op_type == "QuantizeLinear"
    assert "pad" not in view.names()


def test_a_convolution_of_three_channels_is_given_a_fourth_of_zeros(model):
    view = GraphView(write(model))
    conv = view.producer("c0")
    weight = view.constant(view.producer(conv.input[1]).input[0])
    assert weight.shape == (16, 4, 3, 3)
    assert not weight[:, 3].any()


def test_an_input_gets_its_new_channel_in_front_of_its_quantizer(model):
    view = GraphView(write(model))
    pad = view.producer(view.producer("x/q").input[0])
    assert (pad.op_type, pad.input[0]) == ("Pad", "x")


def test_codes_that_two_convolutions_read_get_their_new_channel_behind_the_quantizer(
    parse_graph, x, monkeypatch
):
    text = SHORTCUT.replace("Pad(half, pads)", "Conv<pads=[1,1,1,1], strides=[2,2]>(x, w2)")
    twice = with_weights(
        parse_graph(text.replace("float[16,3,3,3] w0", "float[16,3,3,3] w0, float[32,3,3,3] w2"))
    )
    written = write(twice)
    view = GraphView(written)
    assert view.producer("x/q").input[0] == "x"
    assert sum(node.op_type == "Pad" for node in view.nodes) == 2
    monkeypatch.setattr("edgeq.graph.insert_qdq.fit_kernels", lambda _: None)
    np.testing.assert_array_equal(run(written, x), run(write(twice), x))


@pytest.mark.parametrize("bits", ["w8a8", "w4a4"])
def test_the_forms_change_no_code_and_no_output(model, x, monkeypatch, bits):
    plan = make_plan(model, bits)
    written = write(model, bits)
    monkeypatch.setattr("edgeq.graph.insert_qdq.fit_kernels", lambda _: None)
    plain = write(model, bits)
    assert plain != written
    np.testing.assert_array_equal(run(written, x), run(plain, x))
    for name, codes in read_codes(plain, plan, {"x": x}).items():
        np.testing.assert_array_equal(read_codes(written, plan, {"x": x})[name], codes)


def test_a_shortcut_without_weights_becomes_a_convolution_that_changes_no_code(
    shortcut, x, monkeypatch
):
    plan, written = make_plan(shortcut), write(shortcut)
    monkeypatch.setattr("edgeq.graph.insert_qdq.fit_kernels", lambda _: None)
    plain = write(shortcut)
    assert GraphView(written).producer("wide/q/moved").op_type == "Conv"
    np.testing.assert_array_equal(run(written, x), run(plain, x))
    want, got = (read_codes(item, plan, {"x": x}) for item in (plain, written))
    assert want.keys() - got.keys() == {"half"}  # the form has passed it over
    for name, codes in got.items():
        np.testing.assert_array_equal(codes, want[name])
    assert lint(written, CPU) == ()


def test_codes_are_read_without_the_zero_point_of_their_container(model, x):
    plan = make_plan(model)
    codes = read_codes(write(model), plan, {"x": x})
    scale = make_values(model, plan).scales["x"]
    np.testing.assert_array_equal(codes["x"], quantize(x, scale, low=-128, high=127))
    assert codes["r0"].max() == 255


def test_codes_behind_two_pads_are_read_without_the_zero_point_of_their_container(parse_graph, x):
    """A network that begins with a Pad, as Keras writes it: the kernel's own Pad stands behind it."""
    model = with_weights(
        parse_graph("""g (float[N,3,8,8] x) => (float[N,16] y)
        <float[16,3,3,3] w0, float[16,16] w1, int64[8] pads = {0,0,1,1,0,0,1,1}>
        { wide = Pad(x, pads) c = Conv(wide, w0) r = Relu(c) p = GlobalAveragePool(r)
          f = Flatten(p) y = Gemm<transB=1>(f, w1) }""")
    )
    plan, written = make_plan(model), write(model)
    kinds = [node.op_type for node in written.graph.node]
    assert kinds.count("Pad") == 2
    codes = read_codes(written, plan, {"x": x})
    np.testing.assert_array_equal(codes["wide"][:, :, 1:-1, 1:-1], codes["x"])
    assert not codes["wide"][:, :, 0].any()


def test_the_optimised_graph_gives_what_the_written_one_gives_within_its_last_scale(model, x):
    plan = make_plan(model)
    values = make_values(model, plan)
    written = insert_qdq(model, plan, values, card=CPU).model
    gain = np.abs(values.codes["w2"] * values.scales["w2"][:, None]).sum(1).max()
    allowed = 2 * float(values.scales["p"]) * gain  # a rounding of the sum and one of the mean
    np.testing.assert_allclose(run(written, x, optimise=True), run(written, x), atol=allowed)


def test_fitting_twice_changes_nothing_more(model):
    written = write(model)
    again = onnx.ModelProto()
    again.CopyFrom(written)
    fit_kernels(again)
    assert again.SerializeToString() == written.SerializeToString()


def test_what_is_written_is_valid_and_passes_the_lint_of_its_target(model):
    written = write(model)
    onnx.checker.check_model(written, full_check=True)
    assert lint(written, CPU) == ()


def test_no_constant_is_left_that_nobody_reads(parse_graph):
    text = NET.replace("int64[8] pads", "float value = {0.0}, int64[8] pads")
    written = write(parse_graph(text.replace("Pad(r0, pads)", "Pad(r0, pads, value)")))
    assert {item.name for item in written.graph.initializer} <= names_read(written.graph)


def test_a_padding_that_something_else_reads_stays_in_float(parse_graph):
    text = NET.replace("float[N,16] y)", "float[N,16] y, float[N,16,10,10] pad)")
    view = GraphView(write(parse_graph(text)))
    assert view.producer("pad").op_type == "Pad"


def test_eight_unsigned_bits_do_not_fit_the_container_of_tensorrt(model):
    plan = make_plan(model)
    with pytest.raises(EdgeqBug, match="does not fit INT8"):
        insert_qdq(model, plan, make_values(model, plan), card=load_card("jetson-orin"))
