from __future__ import annotations

import dataclasses

import numpy as np
import onnx
import pytest
import torch

from edgeq.core.errors import InputError, ModelError
from edgeq.core.specs import Layout
from edgeq.teacher.importer import import_teacher
from edgeq.teacher.proof import ProofResult, prove_equal

F32 = np.float32
TEXT = """g (float[N,2,3,3] input) => (float[N,4] y) {
  a = Conv (input, w) b = Relu (a) y = Flatten (b) }"""
ONE_OUTPUT = "g (float[N,2] input) => (float[N,2] y) "


@pytest.fixture
def model(from_text):
    weights = np.random.default_rng(0).normal(size=(4, 2, 3, 3)).astype(F32)
    return from_text(TEXT, w=weights)


@pytest.fixture
def spec(image_input):
    return image_input((2, 3, 3))


class Listener:
    def __init__(self):
        self.steps = []

    def start(self, stage, total, unit):
        self.steps.append((stage, total, unit))

    def advance(self, n=1, **figures):
        self.steps.append(sorted(figures))

    def finish(self, summary):
        self.steps.append(summary)


def test_an_imported_model_is_proved_equal(model, spec):
    result = prove_equal(import_teacher(model), model, [spec], seed=0)
    assert 0 <= result.largest_abs < 1e-5
    assert result.largest_rel < 1e-5
    assert 1e-5 < result.tolerance < 1e-2
    assert (result.outputs, result.samples) == (("y",), 4)
    assert ProofResult.from_dict(result.to_dict()) == result


def test_the_same_seed_gives_the_same_proof(model, spec):
    first, second = (prove_equal(import_teacher(model), model, [spec], seed=5) for _ in range(2))
    assert first == second


def test_progress_hears_of_every_batch(model, spec):
    listener = Listener()
    prove_equal(import_teacher(model), model, [spec], seed=0, batches=3, progress=listener)
    assert listener.steps[0] == ("prove", 3, "batch")
    assert listener.steps[1:4] == [["largest_abs"]] * 3
    assert listener.steps[4].startswith("equal to ONNX Runtime within")


def test_a_fixed_batch_is_kept(from_text, image_input):
    model = from_text(TEXT.replace("N", "5"), w=np.ones((4, 2, 3, 3), F32))
    spec = image_input((2, 3, 3), batch=5)
    assert prove_equal(import_teacher(model), model, [spec], seed=0).samples == 10


def test_a_changed_weight_names_the_first_tensor_that_diverges(from_text, image_input):
    text = """g (float[N,2,3,3] input) => (float[N,2,3,3] y) {
      a = Neg (input) b = Mul (a, w) c = Exp (b) y = Add (c, a) }"""
    model = from_text(text, w=np.ones(1, F32))
    teacher = import_teacher(model)
    with torch.no_grad():
        next(teacher.module.parameters()).mul_(1.01)
    with pytest.raises(ModelError, match="first tensor that diverges is 'b'") as caught:
        prove_equal(teacher, model, [image_input((2, 3, 3))], seed=0)
    assert caught.value.node == "b"


def test_an_integer_output_must_be_equal(from_text, image_input):
    model = from_text(
        "g (float[N,4] input) => (int64[N] y) { y = ArgMax <axis=1, keepdims=0> (input) }"
    )
    other = from_text(
        "g (float[N,4] input) => (int64[N] y) { z = Neg (input) y = ArgMax <axis=1, keepdims=0> (z) }"
    )
    assert prove_equal(import_teacher(model), model, [image_input((4,))], seed=0).tolerance == 0
    with pytest.raises(ModelError, match="output 'y'"):
        prove_equal(import_teacher(other), model, [image_input((4,))], seed=0)


def test_another_shape_is_refused(from_text, image_input):
    model = from_text(ONE_OUTPUT + "{ y = Relu (input) }")
    other = from_text(ONE_OUTPUT + "{ y = Transpose (input) }")
    with pytest.raises(ModelError, match=r"has the shape \[2, 1\], in ONNX Runtime \[1, 2\]"):
        prove_equal(import_teacher(other), model, [image_input((2,))], seed=0)


def test_an_output_that_is_not_finite_is_refused(from_text, image_input):
    model = from_text(ONE_OUTPUT + "{ y = Log (input) }")
    with pytest.raises(ModelError, match="'y' has NaN or infinity"):
        prove_equal(import_teacher(model), model, [image_input((2,))], seed=0)


def test_inputs_stay_in_the_legal_box(from_text, image_input):
    model = from_text(ONE_OUTPUT + "{ y = Log (input) }")
    spec = dataclasses.replace(
        image_input((2,)), low=(1.0, 2.0), high=(1.5, 3.0), layout=Layout.NHWC
    )
    assert prove_equal(import_teacher(model), model, [spec], seed=0, batches=8).samples == 16


def test_an_integer_input_gets_whole_numbers(from_text, image_input):
    model = from_text(
        "g (int64[N,2] input) => (float[N,2,3] y) { y = Gather (table, input) }",
        table=np.arange(12, dtype=F32).reshape(4, 3),
    )
    spec = dataclasses.replace(image_input((2,)), dtype="int64", low=(0.0,), high=(3.0,))
    assert prove_equal(import_teacher(model), model, [spec], seed=0).largest_abs == 0


def test_an_input_that_is_not_described_is_an_error(model, spec):
    with pytest.raises(InputError, match=r"inputs \['other'\] were described"):
        prove_equal(import_teacher(model), model, [dataclasses.replace(spec, name="other")], seed=0)


def test_a_model_that_onnx_runtime_refuses_is_an_error(model, spec):
    broken = onnx.ModelProto()
    broken.CopyFrom(model)
    broken.graph.node[1].op_type = "NonsenseOp"
    with pytest.raises(ModelError, match="ONNX Runtime cannot load the model"):
        prove_equal(import_teacher(model), broken, [spec], seed=0)


def test_inputs_that_onnx_runtime_refuses_are_an_error(model, image_input):
    with pytest.raises(ModelError, match="ONNX Runtime cannot run the model"):
        prove_equal(import_teacher(model), model, [image_input((2, 9))], seed=0)


def test_a_node_that_torch_cannot_run_is_named(from_text, image_input):
    text = ONE_OUTPUT + "{ a = Neg (input) y = Dropout (a, ratio, training) }"
    model = from_text(text, ratio=np.array(0, F32), training=np.array(True))
    with pytest.raises(ModelError, match="Dropout in training mode") as caught:
        prove_equal(import_teacher(model), model, [image_input((2,))], seed=0)
    assert caught.value.node == "y"
