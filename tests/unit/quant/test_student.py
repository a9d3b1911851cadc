"""The student quantizes the planned edges and no other, and computes what ONNX Runtime computes from its values."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx
import pytest
import torch

from deploy.cards import load_card
from deploy.code_agreement import compare_codes, read_codes
from deploy.onnxrt import Session
from edgeq.core.errors import EdgeqBug, InputError
from edgeq.core.numerics import choose_scale, dequantize
from edgeq.core.plan import FixedRange, Role, Site
from edgeq.core.recipes import RangesSpec
from edgeq.graph.insert_qdq import insert_qdq
from edgeq.quant.fake_quant import FakeQuantizer
from edgeq.quant.ranges import mse_scale
from edgeq.quant.student import Student, first_scales, observe, require_grid
from edgeq.quant.train import train_student
from edgeq.teacher.teacher import run_and_capture, with_outputs

CARD = load_card("jetson-orin")


@pytest.fixture(scope="module")
def case(make_case):
    return make_case("w4a4")


@pytest.fixture(scope="module")
def student(case):
    return case.student()


def onnx_nodes(student: Student) -> dict[str, torch.fx.Node]:
    graph = student.teacher.module.graph
    return {node.meta["onnx_node"]: node for node in graph.nodes if "onnx_node" in node.meta}


def quantizer_of(student: Student, argument: object) -> FakeQuantizer | None:
    """Return the quantizer that a node's argument comes from, if any."""
    if isinstance(argument, torch.fx.Node) and argument.op == "call_module":
        module = student.teacher.module.get_submodule(str(argument.target))
        assert isinstance(module, FakeQuantizer)
        return module
    return None


def test_exactly_the_sites_of_the_plan_read_quantized_tensors(case, student):
    found = {
        (name, index): quantizer
        for name, node in onnx_nodes(student).items()
        for index, argument in enumerate(node.args)
        if (quantizer := quantizer_of(student, argument)) is not None
    }
    wanted = {
        (site.node, site.index): student.quantizers[case.plan.owner_of(decision.tensor)]
        for decision in case.plan.quantized()
        for site in decision.sites
    }
    assert len(wanted) > 8
    assert found == wanted


def test_another_reader_of_a_quantized_tensor_sees_the_float_tensor(student):
    nodes = onnx_nodes(student)
    assert quantizer_of(student, nodes["c1"].args[0]) is student.quantizers["r0"]
    assert nodes["cut"].args[0] is nodes["r0"]


def test_two_layers_that_read_one_tensor_read_the_same_quantized_one(make_case):
    text = """g (float[N,3,8,8] x) => (float[N,4,8,8] y)
    <float[4,3,1,1] w, float[4,4,1,1] u, float[4,4,1,1] v>
    { c = Conv(x, w) r = Relu(c) a = Conv(r, u) b = Conv(r, v) y = Mul(a, b) }"""
    case = make_case("w4a4", text=text)
    assert len(next(item for item in case.plan.decisions if item.tensor == "r").sites) == 2
    nodes = onnx_nodes(case.student())
    assert nodes["a"].args[0] is nodes["b"].args[0]
    assert nodes["a"].args[0].op == "call_module"


def test_two_inputs_are_both_quantized(make_case):
    text = """g (float[N,3,8,8] x, float[N,3,8,8] z) => (float[N,4,8,8] y) <float[4,3,1,1] w, float[4,3,1,1] v>
    { a = Conv(x, w) b = Conv(z, v) y = Add(a, b) }"""
    case = make_case("w8a8", text=text, inputs=())
    scales = {
        item.tensor: torch.full((4,) if item.role is Role.WEIGHT else (), 0.01)
        for item in case.plan.quantized()
    }
    assert {"x", "z", "w", "v"} <= set(scales)
    student = Student(case.teacher, case.plan, scales)
    with torch.no_grad():
        found = student.teacher.module(case.x, case.x / 2)[0]
        wanted = case.teacher.module(case.x, case.x / 2)[0]
    assert float((found - wanted).abs().max()) > 0
    nodes = onnx_nodes(student)
    for layer, tensor in (("a", "x"), ("b", "z")):
        assert quantizer_of(student, nodes[layer].args[0]) is student.quantizers[tensor]


def test_an_output_that_is_quantized_for_a_reader_leaves_in_float(make_case):
    text = """g (float[N,3,8,8] x) => (float[N,4,8,8] r, float[N,4,8,8] d)
    <float[4,3,1,1] w, float[4,4,1,1] v> { c = Conv(x, w) r = Relu(c) d = Conv(r, v) }"""
    found = make_case("w8a2", text=text).student()
    assert "r" in found.quantizers
    outputs = found.teacher.module(torch.randn(1, 3, 8, 8))
    assert len(outputs[0].unique()) > 4


def test_the_peak_of_a_batch_is_the_largest_of_all_tensors_that_share_a_scale(make_case):
    text = """g (float[N,3,8,8] x) => (float[N,8,6,6] y) <float[4,3,3,3] w0, float[4,3,3,3] w1, float[8,8,1,1] w2>
    { a = Conv (x, w0) b = Conv (x, w1) c = Concat<axis=1> (a, b) y = Conv (c, w2) }"""
    w0 = np.full((4, 3, 3, 3), 0.01, np.float32)
    case = make_case("w8a8", text=text, inputs=(), w0=w0, w1=20 * w0)
    batches = [(x,) for x in case.x.split(4)]
    scales = first_scales(case.teacher, case.plan, batches, RangesSpec(activations="batch_max"))
    joined = with_outputs(case.teacher, ["c"])
    peaks = [joined(*batch)[1][0].abs().amax() for batch in batches]
    wanted = float(torch.stack(peaks).mean()) / 127
    shared = [float(scales[name]) for name in ("a", "b", "c") if name in scales]
    assert shared == [pytest.approx(wanted)]


def test_a_shared_range_is_one_quantizer(case, student):
    assert case.plan.owner_of("wide") == "r0"
    assert "wide" not in student.quantizers
    node = onnx_nodes(student)["s"]
    assert quantizer_of(student, node.args[1]) is student.quantizers["r0"]


def test_with_its_quantizers_switched_off_the_student_is_the_teacher(case):
    student = case.student()
    for quantizer in student.quantizers.values():
        quantizer.enabled = False
    with torch.no_grad():
        assert torch.equal(student.teacher.module(case.x)[0], case.teacher.module(case.x)[0])


def test_the_teacher_keeps_its_graph_and_its_parameters(make_case):
    case = make_case("w4a4")
    code = case.teacher.module.code
    student = case.student()
    with torch.no_grad():
        for weight in student.weights().values():
            weight.zero_()
    assert case.teacher.module.code == code
    assert all(parameter.abs().sum() > 0 for parameter in case.teacher.module.parameters())


def test_first_scales_are_fixed_ranges_or_the_result_of_the_search(case):
    scales = first_scales(case.teacher, case.plan, [(x,) for x in case.x.split(5)])
    decisions = {decision.tensor: decision for decision in case.plan.quantized()}
    assert set(scales) == set(decisions) - {"wide"}
    assert isinstance(decisions["x"].owner, FixedRange)
    assert float(scales["x"]) == float(choose_scale(2.0, high=127))
    weight = case.teacher.module.get_parameter("w1")
    assert torch.equal(scales["w1"], mse_scale(weight, decisions["w1"].grid))
    with torch.no_grad():
        _, captured = run_and_capture(case.teacher, [case.x], ["r0"])
    # The range search also sees the extremes of each batch: one candidate, 6 %, may lie between.
    wanted = float(mse_scale(captured["r0"], decisions["r0"].grid))
    assert float(scales["r0"]) == pytest.approx(wanted, rel=0.07)


def test_a_scale_that_several_tensors_share_covers_them_all(make_case):
    text = """g (float[N,3,8,8] x) => (float[N,4,8,8] y)
    <float[4,3,1,1] small, float[4,3,1,1] large, float[4,8,1,1] w>
    { s = Conv(x, small) sr = Relu(s) l = Conv(x, large) lr = Relu(l)
      both = Concat<axis=1>(sr, lr) y = Conv(both, w) }"""
    case = make_case("w8a8", text=text, large=np.full((4, 3, 1, 1), 9, np.float32))
    assert case.plan.owner_of("both") == case.plan.owner_of("lr") == "sr"
    scale = float(first_scales(case.teacher, case.plan, [(case.x,)])["sr"])
    _, captured = run_and_capture(case.teacher, [case.x], ["sr", "both"])
    largest = {name: float(value.max()) for name, value in captured.items()}
    assert largest["sr"] < 0.2 * largest["both"]
    # At 8 bits the search clips a little of the range at most.
    assert 127 * scale > 0.7 * largest["both"]


def test_observation_sees_every_batch(case):
    samples = observe(case.teacher, ["x"], [(x,) for x in case.x.split(4)])
    assert set(case.x.flatten().tolist()) == set(samples["x"].values().tolist())


def test_a_fixed_range_has_no_parameter_to_train(student):
    found = student.parameters_of(Role.ACTIVATION)
    assert set(found) == {"r0", "r1", "r2", "f"}
    assert found["r0"] is student.quantizers["r0"].log_scale
    assert set(student.parameters_of(Role.WEIGHT)) == {"w0", "w1", "w2", "w3"}


def test_weights_and_biases_of_quantized_layers_are_found(student):
    assert {name: tuple(weight.shape) for name, weight in student.weights().items()} == {
        "w0": (4, 3, 3, 3),
        "w1": (4, 1, 3, 3),
        "w2": (8, 4, 1, 1),
        "w3": (5, 8),
    }
    assert {name: output for name, (_, output) in student.biases().items()} == {
        "b0": "c0",
        "b1": "c1",
        "b2": "c2",
        "b3": "y",
    }


def test_a_bias_of_two_layers_is_not_trained(make_case):
    text = """g (float[N,3,8,8] x) => (float[N,3,8,8] y) <float[3,3,1,1] w, float[3,3,1,1] v, float[3] b>
    { c = Conv(x, w, b) y = Conv(c, v, b) }"""
    assert make_case(text=text).student().biases() == {}


def test_a_bias_with_a_constant_reader_is_trained_and_the_reader_keeps_the_old_one(make_case):
    text = """g (float[N,3,8,8] x) => (float[N,4,8,8] y) <float[4,3,1,1] w, float[4] b>
    { c = Conv(x, w, b) t = ReduceSum<keepdims=0>(b) y = Mul(c, t) }"""
    case = make_case("w8a8", text=text)
    student = case.student()
    bias = student.biases()["b"][0]
    with torch.no_grad():
        bias += 1.0
    qdq = insert_qdq(case.model, case.plan, student.values(), card=CARD).model
    with torch.no_grad():
        wanted = student.teacher.module(case.x)[0].numpy()
    found = Session(qdq, outputs=("y",)).run({"x": case.x.numpy()})["y"]
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


def test_what_else_reads_a_weight_reads_what_the_file_keeps(make_case):
    text = """g (float[N,3,8,8] x) => (float[N,8,8,3,1,1] y, float[3,3,1,1] w) <float[3,3,1,1] w>
    { c = Conv(x, w) i = ArgMax<axis=1,keepdims=0>(c) y = Gather(w, i) }"""
    case = make_case("w4a4", text=text)
    student = case.student()
    before = case.teacher.module.get_parameter("w").detach().clone()
    with torch.no_grad():
        student.weights()["w"].mul_(2)
        wanted = [item.numpy() for item in student.teacher.module(case.x)]
    qdq = insert_qdq(case.model, case.plan, student.values(), card=CARD).model
    found = Session(qdq, outputs=("y", "w")).run({"x": case.x.numpy()})
    np.testing.assert_array_equal(found["y"], wanted[0])
    np.testing.assert_array_equal(wanted[1], before.numpy())


@pytest.mark.parametrize("bits", ["w8a8", "w4a4", "w2a3"])
def test_values_are_complete_legal_and_of_the_weights_shapes(make_case, bits):
    case = make_case(bits)
    student = case.student()
    values = student.values()
    values.require_complete(case.plan)
    assert set(values.floats) == {"b0", "b1", "b2", "b3"}
    assert values.scales["wide"].tobytes() == values.scales["r0"].tobytes()
    for decision in case.plan.quantized(Role.WEIGHT):
        codes, scale = values.codes[decision.tensor], values.scales[decision.tensor]
        weight = student.weights()[decision.tensor].detach()
        assert (codes.dtype, codes.shape) == (np.int8, tuple(weight.shape))
        assert scale.shape == (codes.shape[0],)
        wanted = student.quantizers[decision.tensor](weight).detach().numpy()
        np.testing.assert_array_equal(dequantize(codes, scale, axis=0), wanted)


def test_a_student_made_from_values_has_the_same_codes(case, student):
    values = student.values()
    again = Student.from_values(case.teacher, case.plan, values)
    restored = again.values()
    for name, codes in values.codes.items():
        np.testing.assert_array_equal(restored.codes[name], codes)
    for name, scale in values.scales.items():
        np.testing.assert_allclose(restored.scales[name], scale, rtol=1e-6)
    first, second = student.activation_codes(case.x), again.activation_codes(case.x)
    for name, codes in first.items():
        np.testing.assert_array_equal(second[name], codes)


def test_activation_codes_are_on_their_grids(case, student):
    codes = student.activation_codes(case.x)
    assert set(codes) == {item.tensor for item in case.plan.quantized(Role.ACTIVATION)}
    for decision in case.plan.quantized(Role.ACTIVATION):
        found = codes[decision.tensor]
        assert found.dtype == np.int16  # holds the codes of every grid
        assert found.min() >= decision.grid.low
        assert found.max() <= decision.grid.high
        assert len(np.unique(found)) > 3


def test_given_codes_are_passed_on_and_each_tensor_is_judged_by_itself(case, student):
    own = student.activation_codes(case.x)
    again = student.activation_codes(case.x, given=own)
    for name, codes in own.items():
        np.testing.assert_array_equal(again[name], codes)
    moved = student.activation_codes(case.x, given={**own, "r0": np.zeros_like(own["r0"])})
    unequal = {name for name, codes in own.items() if not np.array_equal(moved[name], codes)}
    # r1 alone reads the codes of r0; r0 keeps its own, and what is behind r1 gets r1's.
    assert unequal == {"r1"}


def test_a_tensor_without_given_codes_passes_its_own_on(case, student):
    own = student.activation_codes(case.x)
    kept = {name: codes for name, codes in own.items() if name != "r0"}
    again = student.activation_codes(case.x, given=kept)
    for name, codes in own.items():
        np.testing.assert_array_equal(again[name], codes)


@pytest.mark.parametrize("bits", ["w8a8", "w4a4", "w3a3"])
def test_onnx_runtime_computes_what_the_trained_student_computes(
    make_case, make_problem, make_spec, bits
):
    case = make_case(bits)
    trained, _ = train_student(make_problem(case), make_spec(steps=6), seed=0)
    values = trained.values()
    qdq = insert_qdq(case.model, case.plan, values, card=CARD).model
    onnx.checker.check_model(qdq, full_check=True)
    student = Student.from_values(case.teacher, case.plan, values)
    x = case.x.numpy()
    agreement = compare_codes(
        student.activation_codes(case.x), read_codes(qdq, case.plan, {"x": x})
    )
    assert {item.tensor for item in agreement.tensors} == {"x", "r0", "r1", "wide", "r2", "f"}
    for item in agreement.tensors:
        assert item.largest <= 1, item
        assert item.differing <= 0.005 * item.count, item
    session = Session(qdq, outputs=("y",))
    with torch.no_grad():
        wanted = student.teacher.module(case.x)[0].numpy()
    # One code of f, through the widest row of w3, is what a single tie may cost.
    row = np.abs(dequantize(values.codes["w3"], values.scales["w3"], axis=0)).max()
    room = float(values.scales["f"] * row) + 1e-5
    np.testing.assert_allclose(session.run({"x": x})["y"], wanted, rtol=1e-5, atol=room)


def test_a_site_that_the_graph_does_not_have_is_our_own_bug(case):
    scales = first_scales(case.teacher, case.plan, [(case.x,)])
    changed = tuple(
        dataclasses.replace(item, sites=(Site(node="c2", index=0, op_type="Conv"),))
        if item.tensor == "r0"
        else item
        for item in case.plan.decisions
    )
    plan = dataclasses.replace(case.plan, decisions=changed)
    with pytest.raises(EdgeqBug, match=r"site .* of 'r0'"):
        Student(case.teacher, plan, scales)


def test_a_reader_of_the_shape_alone_needs_no_place_in_the_graph(case):
    scales = first_scales(case.teacher, case.plan, [(case.x,)])
    changed = tuple(
        dataclasses.replace(item, sites=(*item.sites, Site(node="s", index=0, op_type="Shape")))
        if item.tensor == "r0"
        else item
        for item in case.plan.decisions
    )
    student = Student(case.teacher, dataclasses.replace(case.plan, decisions=changed), scales)
    assert student.quantizers["r0"].enabled


def test_a_decision_without_a_grid_has_none_to_give(case):
    floating = next(item for item in case.plan.decisions if item.grid is None)
    with pytest.raises(EdgeqBug, match="has no grid"):
        require_grid(floating)


def test_an_unknown_tensor_cannot_be_observed(case):
    with pytest.raises(InputError, match="no tensor 'nothing'"):
        observe(case.teacher, ["nothing"], [(case.x,)])
