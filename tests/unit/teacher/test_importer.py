from __future__ import annotations

import operator

import numpy as np
import onnx
import pytest
import torch

from edgeq.core.errors import ModelError
from edgeq.graph.view import GraphView, node_id
from edgeq.teacher.importer import import_teacher

F32 = np.float32

SMALL = """
small (float[N,2,4,4] x) => (float[N,3] y) {
  c = Conv <pads=[1,1,1,1]> (x, w)
  r = Relu (c)
  p = GlobalAveragePool (r)
  f = Flatten (p)
  y = Gemm <transB=1> (f, fc, bias)
}
"""


@pytest.fixture
def weights():
    generator = np.random.default_rng(0)
    return {
        "w": generator.normal(size=(5, 2, 3, 3)).astype(F32),
        "fc": generator.normal(size=(3, 5)).astype(F32),
        "bias": generator.normal(size=3).astype(F32),
    }


def calls(teacher):
    return {
        node.meta["onnx_node"]: node
        for node in teacher.module.graph.nodes
        if "onnx_node" in node.meta
    }


def test_every_node_becomes_one_call_with_its_onnx_names(from_text, weights):
    model = from_text(SMALL, **weights)
    model.graph.node[0].name = "first/conv"
    teacher = import_teacher(model)
    assert list(calls(teacher)) == [node_id(node) for node in GraphView(model).nodes]
    meta = calls(teacher)["c"].meta
    assert (meta["onnx_op"], meta["onnx_name"], meta["tensor"]) == ("Conv", "first/conv", "c")


def test_arguments_stand_in_the_order_of_the_onnx_inputs(from_text, weights):
    teacher = import_teacher(from_text(SMALL, **weights))
    gemm = calls(teacher)["y"]
    names = [teacher.fx_node_of[name] for name in ("f", "fc", "bias")]
    assert [argument.name for argument in gemm.args] == names
    assert gemm.args[1].op == "get_attr"


def test_an_absent_optional_input_is_none(from_text):
    model = from_text(
        "g (float[2] x) => (float[2] y) { y = Clip (x, , high) }", high=np.array(1, F32)
    )
    call = calls(import_teacher(model))["y"]
    assert (call.args[1], call.args[2]) == (None, 1.0)


def test_binding_leads_from_each_parameter_to_its_initializer(from_text, weights):
    teacher = import_teacher(from_text(SMALL, **weights))
    bound = {teacher.binding[key]: value for key, value in teacher.module.named_parameters()}
    assert {name: value.numpy().tolist() for name, value in bound.items()} == {
        name: value.tolist() for name, value in weights.items()
    }


def test_no_parameter_needs_a_gradient_and_the_module_is_in_eval_mode(from_text, weights):
    module = import_teacher(from_text(SMALL, **weights)).module
    assert not module.training
    assert not any(item.requires_grad for item in module.parameters())


def test_names_that_clash_as_identifiers_are_kept_apart(from_text, run_both):
    text = "g (float[2] x) => (float[2] y) { a = Add (x, code) y = Add (a, forward) }"
    model = from_text(text, code=np.ones(2, F32), forward=np.full(2, 3, F32))
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.full(2, 5, F32), "a.b"))
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.full(2, 7, F32), "a_b"))
    model.graph.node.append(onnx.helper.make_node("Mul", ["a.b", "y"], ["z.1"]))
    model.graph.node.append(onnx.helper.make_node("Add", ["a_b", "z.1"], ["0/z"]))
    model.graph.output[0].name = "0/z"
    ours, theirs = run_both(model, {"x": np.zeros(2, F32)})
    assert ours[0].tolist() == theirs[0].tolist() == [27.0, 27.0]


def test_a_weight_behind_identity_stays_one_parameter(from_text):
    text = """g (float[2] x) => (float[2] y) {
      w2 = Identity (w) a = Mul (x, w) y = Mul (a, w2) }"""
    teacher = import_teacher(from_text(text, w=np.ones(2, F32)))
    assert teacher.fx_node_of["w2"] == teacher.fx_node_of["w"]
    assert list(teacher.binding.values()) == ["w"]


def test_a_float_constant_node_is_a_parameter(from_text):
    text = "g (float[2] x) => (float[2] y) { w = Constant <value = float[2] {1, 2}> () y = Mul (x, w) }"
    teacher = import_teacher(from_text(text))
    assert [teacher.binding[key] for key, _ in teacher.module.named_parameters()] == ["w"]


def test_a_node_of_constants_is_computed_at_import_into_a_buffer(from_text):
    text = "g (float[2] x) => (float[2] y) { w = Exp (v) y = Mul (x, w) }"
    teacher = import_teacher(from_text(text, v=np.zeros(2, F32)))
    assert list(calls(teacher)) == ["y"]
    assert not list(teacher.module.parameters())
    key, value = next(teacher.module.named_buffers())
    assert (teacher.binding[key], value.tolist()) == ("w", [1.0, 1.0])


def test_a_constant_integer_tensor_is_a_buffer(from_text):
    text = "g (int64[2] x) => (int64[2] y) { y = Add (x, w) }"
    teacher = import_teacher(from_text(text, w=np.array([1, 2])))
    assert [teacher.binding[key] for key, _ in teacher.module.named_buffers()] == ["w"]


def test_parts_of_a_split_are_known_by_their_names(from_text):
    text = "g (float[4] x) => (float[2] b) { a, b = Split <axis=0> (x) }"
    teacher = import_teacher(from_text(text))
    node = next(n for n in teacher.module.graph.nodes if n.name == teacher.fx_node_of["b"])
    assert (node.target, node.args[0].meta["onnx_node"]) == (operator.getitem, "a")
    assert teacher.module(torch.arange(4.0))[0].tolist() == [2.0, 3.0]


def test_outputs_come_in_file_order_even_if_input_or_constant(from_text):
    text = "g (float[1] x) => (float[1] y, float[1] x, float[1] c) { y = Neg (x) }"
    module = import_teacher(from_text(text, c=np.full(1, 7, F32))).module
    assert [item.item() for item in module(torch.ones(1))] == [-1.0, 1.0, 7.0]


def test_an_initializer_listed_as_input_is_no_argument(from_text):
    text = "g (float[1] x, float[1] w) => (float[1] y) { y = Add (x, w) }"
    teacher = import_teacher(from_text(text, w=np.ones(1, F32)))
    assert teacher.inputs == ("x",)
    assert teacher.module(torch.ones(1))[0].item() == 2.0


def test_one_error_lists_every_node_that_cannot_be_imported(from_text):
    text = """g (float[1,1,4,4] x) => (float[1,1,8,8] y) {
      a = Conv <auto_pad="SAME"> (x, w)
      b, i = MaxPool <kernel_shape=[1,1]> (a)
      c = Cast <to=7> (i)
      d = Softmax <beta=1.0> (b)
      e = Relu (d, x)
      f = Gemm (e)
      h = com.microsoft.FusedThing (f)
      y = NonsenseOp (h)
    }"""
    model = from_text(text, w=np.ones((1, 1, 1, 1), F32))
    model.graph.node[-1].name = "upscale"
    with pytest.raises(ModelError) as caught:
        import_teacher(model)
    lines = caught.value.what.splitlines()
    assert lines[0] == "7 node(s) cannot be imported:"
    assert [line.strip() for line in lines[1:]] == [
        "Conv 'a': attribute auto_pad is SAME, known: NOTSET, SAME_UPPER, SAME_LOWER, VALID",
        "MaxPool 'b': its extra output 'i' is used",
        "Softmax 'd': unknown attribute beta",
        "Relu 'e': 2 inputs, at most 1 are known",
        "Gemm 'f': input 1 is missing",
        "FusedThing 'h': unknown operator of the domain 'com.microsoft'",
        "NonsenseOp 'y' (node 'upscale'): unknown operator",
    ]


@pytest.mark.parametrize("opset", [8, 25])
def test_an_opset_outside_the_tested_ones_is_refused(from_text, opset):
    with pytest.raises(ModelError, match=f"opset {opset}"):
        import_teacher(from_text("g (float[1] x) => (float[1] y) { y = Relu (x) }", opset=opset))


def test_a_constant_that_cannot_be_computed_names_its_node(from_text):
    text = "g (float[2] x) => (float[2] y) { w = MatMul (v, v) y = Mul (x, w) }"
    with pytest.raises(ModelError, match="MatMul cannot be computed") as caught:
        import_teacher(from_text(text, v=np.ones((2, 3), F32)))
    assert caught.value.node == "w"


def test_a_string_tensor_is_refused(from_text):
    model = from_text("g (float[2] x) => (bool[2] y) { y = Equal (s, s) }")
    model.graph.initializer.append(
        onnx.helper.make_tensor("s", onnx.TensorProto.STRING, [1], [b"a"])
    )
    with pytest.raises(ModelError, match="tensor 's' has the element type"):
        import_teacher(model)


def test_a_tensor_that_nothing_makes_is_named(from_text):
    with pytest.raises(ModelError, match="tensor 'ghost' is read before"):
        import_teacher(from_text("g (float[2] x) => (float[2] y) { y = Add (x, ghost) }"))
