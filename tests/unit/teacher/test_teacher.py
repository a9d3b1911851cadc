from __future__ import annotations

import numpy as np
import pytest
import torch

from edgeq.core.errors import InputError
from edgeq.teacher.importer import import_teacher
from edgeq.teacher.teacher import run_and_capture, with_outputs


@pytest.fixture
def teacher(from_text):
    text = """g (float[N,2] x) => (float[N,2] y) {
      a = MatMul (x, w) b = Relu (a) c = Add (b, x) y = Mul (c, s) }"""
    w, s = np.array([[1, -1], [2, 1]], np.float32), np.array([3, 4], np.float32)
    return import_teacher(from_text(text, w=w, s=s))


X = torch.tensor([[1.0, 2.0]])


def test_captured_tensors_have_the_values_of_the_graph(teacher):
    outputs, captured = run_and_capture(teacher, [X], ["b", "w", "x"])
    assert outputs[0].tolist() == teacher.module(X)[0].tolist() == [[18.0, 12.0]]
    assert captured["b"].tolist() == [[5.0, 1.0]]
    assert list(captured) == ["b", "w", "x"]


def test_captured_tensors_carry_gradients_to_the_input(teacher):
    x = X.clone().requires_grad_()
    _, captured = run_and_capture(teacher, [x], ["a"])
    captured["a"].sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [[0.0, 3.0]]


def test_the_capturing_module_shares_the_parameters(teacher):
    module = with_outputs(teacher, ["a"])
    assert {id(item) for item in module.parameters()} == {
        id(item) for item in teacher.module.parameters()
    }
    assert not module.training


def test_the_capturing_module_keeps_the_onnx_names_of_its_nodes(teacher):
    module = with_outputs(teacher, [])
    assert [n.meta.get("onnx_node") for n in module.graph.nodes if n.op == "call_function"] == list(
        "abcy"
    )


def test_an_unknown_tensor_offers_the_nearest_names(teacher):
    with pytest.raises(InputError, match="no tensor 'yy'") as caught:
        with_outputs(teacher, ["yy"])
    assert "did you mean y" in caught.value.mend


def test_a_copy_has_parameters_of_its_own_under_the_same_names(teacher):
    twin = teacher.copy()
    with torch.no_grad():
        for item in twin.module.parameters():
            item.zero_()
    assert teacher.module(X)[0].tolist() == [[18.0, 12.0]]
    assert twin.module(X)[0].tolist() == [[0.0, 0.0]]
    names = [[node.name for node in item.module.graph.nodes] for item in (teacher, twin)]
    assert names[0] == names[1]
