"""A teacher of a file without a batch axis gives every sample of a batch what ONNX Runtime gives it alone."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from edgeq.core.errors import ModelError
from edgeq.core.samples import join_results
from edgeq.core.specs import InputSpec, Layout
from edgeq.teacher.add_batch import add_batch
from edgeq.teacher.importer import import_teacher
from edgeq.teacher.teacher import run_and_capture

X = np.random.default_rng(0).normal(size=(3, 2, 6)).astype(np.float32)
GRAPHS = {
    "softmax-of-axis-0": "y = Softmax<axis=0> (x)",
    "class-token": "u = Unsqueeze (x, zero) y = Concat<axis=1> (token, u)",
    "two-parts": "a, b = Split<axis=0> (x, ones) y = Add (a, b)",
    "best": "y, i = TopK (x, one)",
    "shape": "s = Shape (x) h = Gather (s, zero) l = Concat<axis=0> (one, h, minus) y = Reshape (x, l)",
    "scattered": "y = ScatterND (x, zeros, row)",
    "transposed": "t = Transpose<perm=[1,0]> (x) y = MatMul (x, t)",
    "reduced": "y = ReduceMean<keepdims=0> (x)",
}
CONSTANTS = """int64[1] zero = {0}, int64[1] one = {1}, int64[1] minus = {-1}, int64[2] ones = {1,1},
int64[1,1] zeros = {0}, float[1,6] row = {9,8,7,6,5,4}, float[1,1,6] token = {1,2,3,4,5,6}"""


def spec(shape: tuple[int, ...]) -> InputSpec:
    return InputSpec(
        name="x", shape=shape, batch=0, dtype="float32", layout=Layout.OTHER, mean=(0.0,), std=(1.0,),
        low=(-4.0,), high=(4.0,),
    )  # fmt: skip


def parse(body: str) -> onnx.ModelProto:
    text = f"g (float[2,6] x) => (float y) <{CONSTANTS}> {{ {body} }}"
    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> {text}')
    model.graph.output[0].type.tensor_type.ClearField("shape")
    return onnx.shape_inference.infer_shapes(model)


@pytest.mark.parametrize("name", GRAPHS)
def test_every_sample_gets_what_it_gets_alone(name: str) -> None:
    model = parse(GRAPHS[name])
    session = onnxruntime.InferenceSession(model.SerializeToString())
    expected = join_results([session.run(["y"], {"x": x})[0] for x in X])
    (found,) = add_batch(import_teacher(model), [spec((2, 6))]).module(torch.from_numpy(X))
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5, atol=1e-6)


def test_the_batch_of_one_of_the_network_becomes_the_samples() -> None:
    teacher = add_batch(import_teacher(parse(GRAPHS["class-token"])), [spec((2, 6))])
    _, captured = run_and_capture(teacher, [torch.from_numpy(X)], ["u", "y"])
    assert captured["u"].shape == (3, 2, 6)
    assert captured["y"].shape == (3, 3, 6)


def test_gradients_reach_the_samples() -> None:
    x = torch.from_numpy(X).requires_grad_(True)
    (y,) = add_batch(import_teacher(parse(GRAPHS["transposed"])), [spec((2, 6))]).module(x)
    y[1].square().sum().backward()
    assert x.grad is not None
    assert (x.grad[1] != 0).all()
    assert not x.grad[[0, 2]].any()


def test_the_teacher_of_the_file_is_left_alone() -> None:
    teacher = import_teacher(parse(GRAPHS["transposed"]))
    add_batch(teacher, [spec((2, 6))])
    assert teacher.module(torch.from_numpy(X[0]))[0].shape == (2, 2)


def test_a_node_that_torch_cannot_compute_is_named() -> None:
    model = parse("y = ScatterND (x, zeros, row)")
    with pytest.raises(ModelError, match="cannot run") as caught:
        add_batch(import_teacher(model), [spec((2, 5))])
    assert caught.value.node == "y"
