from __future__ import annotations

import dataclasses

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator

from deploy.cards import card_names, load_card
from edgeq.core.errors import EdgeqBug, ModelError, NumericsError, TargetError
from edgeq.core.numerics import choose_scale, dequantize, quantize
from edgeq.core.plan import QuantPlan, Role
from edgeq.core.quantized import QuantizedValues
from edgeq.core.specs import BitSpec, GraphFlavour
from edgeq.graph.convert_opset import convert_opset
from edgeq.graph.insert_qdq import insert_qdq
from edgeq.graph.lint import Severity, lint
from edgeq.graph.placement import plan_placement
from edgeq.graph.view import GraphView

CARD = load_card("jetson-orin")
FULL_WEIGHTS = dataclasses.replace(CARD, prequantized_weights=False)

BLOCK = """g (float[N,4,8,8] x) => (float[N,16] y, float[N,4,8,8] r0)
<float[4,4,1,1] w0, float[4] b0, float[4,1,3,3] w1, float[8,4,1,1] w2, float[8] b2, float[16,8] w3,
 int64[2] from = {0,0}, int64[2] to = {100,100}, int64[2] axes = {2,3}, int64[2] steps = {2,2},
 int64[8] pads = {0,2,0,0,0,2,0,0}>
{
  [stem] c0 = Conv(x, w0, b0)
  r0 = Relu(c0)
  [dw] c1 = Conv<group=4,pads=[1,1,1,1],strides=[2,2]>(r0, w1)
  r1 = Relu(c1)
  [pw] c2 = Conv(r1, w2, b2)
  cut = Slice(r0, from, to, axes, steps)
  wide = Pad(cut, pads)
  s = Add(c2, wide)
  r2 = Relu(s)
  p = GlobalAveragePool(r2)
  f = Flatten(p)
  y = Gemm<transB=1>(f, w3)
}"""


def make_plan(model: onnx.ModelProto, bits: str = "w8a8", *, same: bool = False) -> QuantPlan:
    spec = BitSpec.parse(bits, first_last_same=same)
    return plan_placement(model, card=CARD, bits=spec, inputs=())


def make_values(model: onnx.ModelProto, plan: QuantPlan, **floats) -> QuantizedValues:
    """Return min-max weights, and activation scales that make some values saturate."""
    view = GraphView(model)
    scales, codes = {}, {}
    for decision in plan.quantized():
        grid, name = decision.grid, decision.tensor
        if decision.role is Role.WEIGHT:
            weight = view.constant(name)
            rest = tuple(axis for axis in range(weight.ndim) if axis != grid.axis)
            amax = np.abs(weight).max(axis=rest if grid.axis is not None else None)
            scales[name] = choose_scale(amax, high=grid.high)
            codes[name] = quantize(
                weight, scales[name], low=grid.low, high=grid.high, axis=grid.axis or 0
            )
        else:
            scales[name] = choose_scale(1.5 if name == "x" else 0.5, high=grid.high)
    return QuantizedValues(scales=scales, codes=codes, floats=floats)


def run_onnxruntime(model: onnx.ModelProto, **feeds):
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model.SerializeToString(), options).run(None, feeds)


def simulate(model: onnx.ModelProto, plan: QuantPlan, values: QuantizedValues, feeds):
    """Return the outputs by a second way: the float nodes one by one, with numpy's fake quantization at the sites."""
    view = GraphView(model)
    tensors = {name: view.constant(name) for name in view.initializers} | feeds
    quantized = {}
    for decision in plan.quantized():
        for site in decision.sites:
            quantized[site.node, site.index] = decision
    for node in view.nodes:
        inputs = {}
        for index, name in enumerate(node.input):
            decision = quantized.get((node.output[0], index))
            inputs[f"i{index}"] = tensors[name]
            if decision is not None:
                grid, scale = decision.grid, values.scales[decision.tensor]
                codes = (
                    values.codes[decision.tensor]
                    if decision.role is Role.WEIGHT
                    else quantize(tensors[name], scale, low=grid.low, high=grid.high)
                )
                inputs[f"i{index}"] = dequantize(codes, scale, axis=grid.axis or 0)
        step = onnx.NodeProto()
        step.CopyFrom(node)
        step.input[:] = list(inputs)
        outputs = ReferenceEvaluator(step, opsets={"": view.opset}).run(None, inputs)
        tensors |= dict(zip(node.output, outputs, strict=True))
    return [tensors[name] for name in view.outputs]


@pytest.fixture(scope="module")
def block(parse_graph) -> onnx.ModelProto:
    return parse_graph(BLOCK)


@pytest.fixture(scope="module")
def x():
    return np.random.default_rng(7).standard_normal((2, 4, 8, 8)).astype(np.float32)


@pytest.mark.parametrize("card", [CARD, FULL_WEIGHTS], ids=["int8_weights", "float_weights"])
@pytest.mark.parametrize("bits", ["w8a8", "w4a4", "w2a3"])
def test_the_written_model_computes_what_numpy_says(block, x, bits, card):
    plan = make_plan(block, bits)
    values = make_values(block, plan)
    result = insert_qdq(block, plan, values, card=card)
    onnx.checker.check_model(result.model, full_check=True)
    wanted = simulate(block, plan, values, {"x": x})
    for name, got, want in zip(
        ("y", "r0"), run_onnxruntime(result.model, x=x), wanted, strict=True
    ):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("card", [CARD, FULL_WEIGHTS], ids=["int8_weights", "float_weights"])
def test_the_written_model_passes_the_lint(block, card):
    plan = make_plan(block, "w4a4")
    result = insert_qdq(block, plan, make_values(block, plan), card=card)
    assert lint(result.model, card) == ()


def test_a_tensor_has_one_pair_however_many_sites_read_it(parse_graph):
    model = parse_graph("""g (float[N,4,8,8] x) => (float[N,4,8,8] y)
    <float[4,4,1,1] w0, float[4,4,1,1] w1> { r = Relu(x) c = Conv(r, w0) d = Conv(r, w1) y = Add(c, d) }""")
    plan = make_plan(model)
    view = GraphView(insert_qdq(model, plan, make_values(model, plan), card=CARD).model)
    assert [node.op_type for node, _ in view.consumers("r")] == ["QuantizeLinear"]
    assert {node.op_type for node, _ in view.consumers("r/dq")} == {"Conv"}
    assert len(view.consumers("r/dq")) == 2


def test_readers_that_are_no_site_keep_the_float_tensor(block):
    plan = make_plan(block)
    view = GraphView(insert_qdq(block, plan, make_values(block, plan), card=CARD).model)
    assert {node.op_type for node, _ in view.consumers("r0")} == {"QuantizeLinear", "Slice"}
    assert "r0" in view.outputs


def test_q_and_dq_have_three_inputs_and_zero_points_of_the_scale_shape(block):
    plan = make_plan(block)
    view = GraphView(insert_qdq(block, plan, make_values(block, plan), card=CARD).model)
    nodes = [node for node in view.nodes if node.op_type.endswith("eLinear")]
    assert nodes
    for node in nodes:
        scale, zero = view.constant(node.input[1]), view.constant(node.input[2])
        assert (zero.dtype, zero.shape, zero.any()) == (np.int8, scale.shape, False)


def test_a_shared_range_is_the_same_initializer(block):
    plan = make_plan(block, "w4a4", same=True)
    view = GraphView(insert_qdq(block, plan, make_values(block, plan), card=CARD).model)
    assert view.producer("wide/q").input[1:] == view.producer("r0/q").input[1:]
    assert view.producer("wide/clip").input[1:] == view.producer("r0/clip").input[1:]
    assert "wide/scale" not in view.initializers


def test_a_narrow_grid_is_clipped_to_products_of_scale_and_code(block):
    plan = make_plan(block, "w4a4")
    view = GraphView(insert_qdq(block, plan, make_values(block, plan), card=CARD).model)
    scale = view.constant("r1/scale")
    assert view.constant("r1/low").dtype == np.float32
    assert view.constant("r1/low") == 0
    assert view.constant("r1/high") == np.float32(15) * scale


def test_an_eight_bit_activation_needs_no_clip(block):
    plan = make_plan(block)
    result = insert_qdq(block, plan, make_values(block, plan), card=CARD)
    assert "Clip" not in {node.op_type for node in result.model.graph.node}


def test_weights_are_int8_codes_and_the_float_ones_are_gone(block):
    plan = make_plan(block, "w4a8")
    values = make_values(block, plan)
    view = GraphView(insert_qdq(block, plan, values, card=CARD).model)
    np.testing.assert_array_equal(view.constant("w1/codes"), values.codes["w1"])
    assert view.producer("w1/dq").op_type == "DequantizeLinear"
    assert "w1" not in view.initializers


def test_a_target_that_wants_float_weights_gets_them_on_the_grid(block):
    plan = make_plan(block, "w4a8")
    values = make_values(block, plan)
    view = GraphView(insert_qdq(block, plan, values, card=FULL_WEIGHTS).model)
    wanted = dequantize(values.codes["w1"], values.scales["w1"])
    np.testing.assert_array_equal(view.constant("w1/values"), wanted)
    assert view.producer("w1/dq").input[0] == "w1/q"
    assert view.producer("w1/q").input[0] == "w1/values"


def test_a_float_weight_that_another_node_reads_stays(parse_graph):
    model = parse_graph("""g (float[N,32] x) => (float[N,16] y) <float[32,16] w>
    { m = MatMul(x, w) s = ReduceSum<keepdims=0>(w) y = Mul(m, s) }""")
    plan = make_plan(model)
    view = GraphView(insert_qdq(model, plan, make_values(model, plan), card=CARD).model)
    assert [node.op_type for node, _ in view.consumers("w")] == ["ReduceSum"]


def test_a_weight_from_a_constant_node_behind_identity_is_replaced_and_both_nodes_go(parse_graph):
    model = parse_graph("""g (float[N,2] x) => (float[N,2] y)
    { k = Constant<value = float[2,2] {1, 2, 3, -4}>() i = Identity(k) y = MatMul(x, i) }""")
    plan = make_plan(model)
    result = insert_qdq(model, plan, make_values(model, plan), card=CARD)
    assert [node.op_type for node in result.model.graph.node] == [
        "QuantizeLinear",
        "DequantizeLinear",
        "DequantizeLinear",
        "MatMul",
    ]
    assert {"k", "i"} <= set(result.touched)
    feed = np.float32([[0.5, 0.25]])
    (got,) = run_onnxruntime(result.model, x=feed)
    np.testing.assert_allclose(got, [[1.25, 0.0]], atol=0.03)


def test_a_trained_bias_takes_the_place_of_the_old_one_under_its_name(block):
    plan = make_plan(block)
    bias = np.float32([1, 2, 3, 4])
    result = insert_qdq(block, plan, make_values(block, plan, b0=bias), card=CARD)
    np.testing.assert_array_equal(GraphView(result.model).constant("b0"), bias)
    assert "b0" in result.touched


def test_a_trained_bias_that_another_node_reads_gets_a_new_name(parse_graph):
    model = parse_graph("""g (float[N,4,8,8] x) => (float[N,4,8,8] y) <float[4,4,1,1] w, float[4] b>
    { c = Conv(x, w, b) s = ReduceSum<keepdims=0>(b) y = Mul(c, s) }""")
    plan = make_plan(model)
    bias = np.float32([1, 2, 3, 4])
    view = GraphView(insert_qdq(model, plan, make_values(model, plan, b=bias), card=CARD).model)
    np.testing.assert_array_equal(view.constant(view.producer("c").input[2]), bias)
    assert view.producer("s").input[0] == "b"
    assert not np.array_equal(view.constant("b"), bias)


def test_what_the_plan_does_not_concern_stays_byte_for_byte(block):
    model = onnx.ModelProto()
    model.CopyFrom(block)
    model.doc_string = "my model"
    model.graph.doc_string = "my graph"
    model.graph.node[1].doc_string = "my node"
    onnx.helper.set_model_props(model, {"author": "somebody"})
    before = model.SerializeToString()
    plan = make_plan(model)
    result = insert_qdq(model, plan, make_values(model, plan), card=CARD).model
    assert model.SerializeToString() == before
    for field in ("doc_string", "metadata_props", "ir_version", "opset_import", "producer_name"):
        assert getattr(result, field) == getattr(model, field)
    for field in ("name", "input", "output", "doc_string"):
        assert getattr(result.graph, field) == getattr(model.graph, field)
    kept = {node.output[0]: node for node in result.graph.node}
    for node in model.graph.node:
        if node.op_type not in {"Conv", "Gemm", "Add", "GlobalAveragePool"}:
            assert kept[node.output[0]] == node
    order = [node.output[0] for node in result.graph.node]
    originals = [node.output[0] for node in model.graph.node]
    assert [name for name in order if name in originals] == originals


def test_two_runs_give_the_same_bytes(block):
    plan = make_plan(block, "w4a4")
    values = make_values(block, plan)
    first, second = (
        insert_qdq(block, plan, values, card=CARD).model.SerializeToString(deterministic=True)
        for _ in range(2)
    )
    assert first == second


def test_new_names_avoid_those_in_use(parse_graph):
    model = parse_graph("""g (float[N,4,8,8] x) => (float[N,4,8,8] y) <float[4,4,1,1] w>
    { c = Conv(x, w) y = Relu(c) }""")
    model.graph.node[1].name = "x/q"
    plan = make_plan(model)
    result = insert_qdq(model, plan, make_values(model, plan), card=CARD).model
    assert "x/q_2" in {node.name for node in result.graph.node}


def test_a_model_that_is_quantized_already_is_refused(block):
    plan = make_plan(block)
    values = make_values(block, plan)
    result = insert_qdq(block, plan, values, card=CARD)
    with pytest.raises(ModelError, match="quantized already"):
        insert_qdq(result.model, plan, values, card=CARD)


def test_an_old_opset_is_raised_to_13_and_computes_the_same(parse_graph, x):
    model = parse_graph(
        """g (float[N,4,8,8] x) => (float[N,4] y) <float[4,4,1,1] w>
    { c = Conv(x, w) r = Relu(c) m = ReduceMean<axes=[2,3],keepdims=1>(r) y = Squeeze<axes=[2,3]>(m) }""",
        opset=11,
    )
    onnx.helper.set_model_props(model, {"author": "somebody"})
    plan = make_plan(model)
    values = make_values(model, plan)
    result = insert_qdq(model, plan, values, card=CARD)
    assert GraphView(result.model).opset == 13
    assert "opset 11 was raised to 13" in result.findings[0]
    assert result.model.metadata_props == model.metadata_props
    onnx.checker.check_model(result.model, full_check=True)
    (want,) = simulate(model, plan, values, {"x": x})
    np.testing.assert_allclose(run_onnxruntime(result.model, x=x)[0], want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("op", "opset", "mode", "scales"),
    [
        ("Upsample", 9, "nearest", (1, 1, 1.3, 2)),
        ("Upsample", 9, "linear", (1, 1, 2, 2)),
        ("Resize", 10, "linear", (1, 1, 1.5, 2)),
        ("Resize", 10, "nearest", (1, 1, 0.6, 0.5)),
        ("Resize", 10, "nearest", (1, 1, 1.3, 0.5)),
    ],
)
def test_an_old_resize_is_raised_with_its_name_and_computes_the_same(
    parse_graph, x, op, opset, mode, scales
):
    model = parse_graph(
        f"""g (float[N,4,8,8] x) => (float[N,4,h,w] y) <float[4,4,1,1] w, float[4,4,1,1] v, float[4] s>
    {{ c = Conv(x, w) r = Relu(c) [up] u = {op}<mode="{mode}">(r, s) y = Conv(u, v) }}""",
        opset=opset,
        s=np.array(scales, np.float32),
    )
    plan = make_plan(model)
    values = make_values(model, plan)
    result = insert_qdq(model, plan, values, card=CARD)
    resize = GraphView(result.model).producer("u")
    assert (resize.op_type, resize.name) == ("Resize", "up")
    raised = convert_opset(model, 13)
    want, found = (run_onnxruntime(item, x=x)[0] for item in (model, raised))
    np.testing.assert_allclose(found, want, rtol=1e-5, atol=1e-5)


def test_an_old_softmax_of_several_axes_reads_codes_and_stays_a_softmax(parse_graph, x):
    model = parse_graph(
        """g (float[N,4,8,8] x) => (float[N,4,8,8] y) <float[4,4,1,1] w>
    { c = Conv(x, w) y = Softmax<axis=1>(c) }""",
        opset=11,
    )
    card = load_card("cpu")
    plan = plan_placement(model, card=card, bits=BitSpec.parse("w8a8"), inputs=())
    assert "c" in {decision.tensor for decision in plan.quantized(Role.ACTIVATION)}
    written = insert_qdq(model, plan, make_values(model, plan), card=card).model
    (found,) = run_onnxruntime(written, x=x)
    np.testing.assert_allclose(found.sum((1, 2, 3)), 1, rtol=1e-4)


@pytest.mark.parametrize("text", ["<axis=1>", "<axis=-1>", ""])
def test_an_old_hardmax_is_raised_and_computes_the_same(parse_graph, x, text):
    model = parse_graph(
        f"g (float[N,4,8,8] x) => (float[N,4,8,8] y) {{ s = Softmax(x) y = Hardmax{text}(s) }}",
        opset=11,
    )
    want, found = (run_onnxruntime(item, x=x)[0] for item in (model, convert_opset(model, 13)))
    np.testing.assert_array_equal(found, want)


def test_an_upsample_whose_scales_are_an_attribute_is_raised(parse_graph, x):
    model = parse_graph(
        """g (float[N,4,8,8] x) => (float[N,4,16,16] y)
    { y = Upsample<mode="nearest",scales=[1.0,1.0,2.0,2.0]>(x) }""",
        opset=7,
    )
    want, found = (run_onnxruntime(item, x=x)[0] for item in (model, convert_opset(model, 13)))
    np.testing.assert_array_equal(found, want)


def test_a_resize_that_rounds_both_ways_cannot_be_raised(parse_graph):
    model = parse_graph(
        "g (float[N,4,8,8] x) => (float[N,4,h,w] y) <float[4] s> { y = Resize(x, s) }",
        opset=10,
        s=np.array([1, 1, 1.3, 0.6], np.float32),
    )
    with pytest.raises(ModelError, match="opset 11 cannot say"):
        convert_opset(model, 13)


def test_an_old_operator_that_cannot_be_raised_is_told(parse_graph):
    model = parse_graph(
        """<ir_version: 6, opset_import: ["" : 6]>
    g (float[1,3,4,4] x) => (float[1,3,8,8] y) { y = NoSuchOperator(x) }""",
        check=False,
    )
    empty = QuantPlan(target="jetson-orin", bits="w8a8", decisions=())
    with pytest.raises(ModelError, match="cannot be raised to 13"):
        insert_qdq(model, empty, QuantizedValues(scales={}, codes={}, floats={}), card=CARD)


def test_an_opset_above_the_targets_is_lowered_where_it_means_the_same(parse_graph):
    text = '<ir_version: 10, opset_import: ["" : 22]> g (float[N,2] x) => (float[N,2] y) { y = Elu(x) }'
    model = parse_graph(text)
    plan = QuantPlan(target="jetson-orin", bits="w8a8", decisions=())
    values = QuantizedValues(scales={}, codes={}, floats={})
    result = insert_qdq(model, plan, values, card=CARD)
    assert result.model.opset_import[0].version == 20
    assert result.findings[0].startswith("opset 22 was lowered to 20")


def test_an_opset_above_the_targets_is_refused_where_an_operator_is_new(parse_graph):
    model = parse_graph(
        '<ir_version: 12, opset_import: ["" : 24]> g (float[N,2] x) => (float[N,2] y) { y = Swish(x) }'
    )
    with pytest.raises(TargetError, match="takes up to 20") as caught:
        insert_qdq(model, make_plan(model), make_values(model, make_plan(model)), card=CARD)
    assert "opset 20" in caught.value.mend


def test_an_ir_version_above_the_targets_is_lowered(block):
    model = onnx.ModelProto()
    model.CopyFrom(block)
    model.ir_version = 12
    plan = make_plan(model)
    result = insert_qdq(model, plan, make_values(model, plan), card=CARD)
    assert result.model.ir_version == CARD.ir_max
    assert "IR version 12" in result.findings[0]


@pytest.mark.parametrize("target", [name for name in card_names() if load_card(name).has_int8])
def test_what_is_written_for_a_target_passes_its_lint(block, target):
    card = load_card(target)
    plan = make_plan(block)
    written = insert_qdq(block, plan, make_values(block, plan), card=card).model
    assert [item for item in lint(written, card) if item.severity is Severity.ERROR] == []


@pytest.mark.parametrize(
    ("target", "version", "words"),
    [
        ("jetson-orin@jetpack7.2", "10.16.2", "weak typing (--int8 --fp16)"),
        ("jetson-orin@jetpack7.2", "11.4", "what is not quantized runs in FP32"),
        ("jetson-orin", "10.3", None),
        ("cpu", "1.18+", None),
    ],
)
def test_a_float32_graph_for_strong_typing_says_what_becomes_of_it(block, target, version, words):
    card = dataclasses.replace(
        load_card(target), runtime_version=version, flavour=GraphFlavour.FP32_TYPED
    )
    plan = make_plan(block)
    findings = insert_qdq(block, plan, make_values(block, plan), card=card).findings
    assert any("FP32-typed" in finding for finding in findings) == (words is not None)
    assert words is None or any(words in finding for finding in findings)


def test_weights_listed_among_the_inputs_leave_no_input_behind(block, x):
    model = onnx.ModelProto()
    model.CopyFrom(block)
    model.ir_version = 3
    for item in block.graph.initializer:
        model.graph.input.append(
            onnx.helper.make_tensor_value_info(item.name, item.data_type, list(item.dims))
        )
    plan = make_plan(model)
    result = insert_qdq(model, plan, make_values(model, plan), card=CARD)
    names = {item.name for item in result.model.graph.input}
    assert "x" in names
    assert not names & {"w0", "w1", "w2", "w3"}
    assert run_onnxruntime(result.model, x=x)[0].shape == (2, 16)


def test_a_missing_scale_is_an_error_with_the_tensors_name(block):
    plan = make_plan(block)
    values = make_values(block, plan)
    del values.scales["r1"]
    with pytest.raises(NumericsError, match="'r1'"):
        insert_qdq(block, plan, values, card=CARD)


@pytest.mark.parametrize("fault", ["shape", "owner"])
def test_a_scale_that_breaks_the_plan_is_our_own_bug(block, fault):
    plan = make_plan(block, "w4a4")
    values = make_values(block, plan)
    if fault == "shape":
        values.scales["w1"] = np.float32([1.0])
    else:
        values.scales["wide"] = np.float32(9.0)
    with pytest.raises(EdgeqBug, match="scale of"):
        insert_qdq(block, plan, values, card=CARD)


def test_a_plan_for_another_graph_is_our_own_bug(block, parse_graph):
    plan = make_plan(block)
    other = parse_graph(BLOCK.replace("r1", "other"))
    with pytest.raises(EdgeqBug):
        insert_qdq(other, plan, make_values(block, plan), card=CARD)


def test_a_tensor_read_inside_a_subgraph_is_kept(parse_graph):
    model = parse_graph("""g (float[N,32] x, bool flag) => (float[N,16] y, float[32,16] z) <float[32,16] w>
    { y = MatMul(x, w) z = If(flag)
      <then_branch = a () => (float[32,16] t) { t = Identity(w) },
       else_branch = b () => (float[32,16] e) { e = Neg(w) }> }""")
    plan = make_plan(model)
    result = insert_qdq(model, plan, make_values(model, plan), card=CARD).model
    assert "w" in {item.name for item in result.graph.initializer}
    stored = next(item for item in result.graph.initializer if item.name == "w")
    assert numpy_helper.to_array(stored).dtype == np.float32
