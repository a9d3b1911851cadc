from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from edgeq.core.specs import InputSpec, Layout
from edgeq.teacher.importer import import_teacher
from edgeq.teacher.teacher import Teacher

Feed = dict[str, np.ndarray]


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def image_input() -> Callable[..., InputSpec]:
    """Make the spec of a normalised picture input."""

    def make(shape: tuple[int, ...], *, batch: int | None = None) -> InputSpec:
        return InputSpec(
            name="input",
            shape=shape,
            batch=batch,
            dtype="float32",
            layout=Layout.NCHW,
            mean=(),
            std=(),
            low=(-2.0,) * shape[0],
            high=(2.0,) * shape[0],
        )

    return make


@pytest.fixture(scope="session")
def from_text() -> Callable[..., onnx.ModelProto]:
    """Parse a graph in ONNX's text form, with initializers given as arrays."""

    def parse(text: str, *, opset: int = 17, **initializers: np.ndarray) -> onnx.ModelProto:
        model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : {opset}]>\n{text}')
        model.graph.initializer.extend(
            onnx.numpy_helper.from_array(value, name) for name, value in initializers.items()
        )
        return model

    return parse


@pytest.fixture(scope="session")
def run_both() -> Callable[..., tuple[list[np.ndarray], list[np.ndarray]]]:
    """Run a model in torch and in ONNX Runtime."""

    def run(model: onnx.ModelProto, feed: Feed) -> tuple[list[np.ndarray], list[np.ndarray]]:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = 1, 3
        session = onnxruntime.InferenceSession(model.SerializeToString(), options)
        teacher: Teacher = import_teacher(model)
        ours = teacher.module(*(torch.from_numpy(feed[name]) for name in teacher.inputs))
        return [item.numpy() for item in ours], session.run(list(teacher.outputs), feed)

    return run
