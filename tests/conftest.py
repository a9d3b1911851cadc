"""What tests of several rooms use: graphs in ONNX's text form, and the networks of tests/nets as the package `nets`."""

from __future__ import annotations

import importlib
import os
import sys
import zlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from types import ModuleType
from typing import Any

# Networks of tests are tiny: two OpenMP threads wait for each other longer than one computes. Read when torch loads.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

ParseGraph = Callable[..., onnx.ModelProto]

sys.path.insert(0, str(Path(__file__).parent))  # so that tests, and its own modules, import `nets`

_HEADER = '<ir_version: 8, opset_import: ["" : {opset}]>\n'


def pytest_configure(config: pytest.Config) -> None:
    """Hide GPUs from all tests but those that are asked for with `-m gpu`: the others are about the CPU."""
    if config.getoption("markexpr") != "gpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


@pytest.fixture(scope="session")
def zoo() -> ModuleType:
    """The module tests/nets/zoo.py."""
    return importlib.import_module("nets.zoo")


@pytest.fixture(scope="session")
def fake_device() -> Callable[[], AbstractContextManager[Any]]:
    """Return the context of tests/fake_device.py, whose value is the device."""
    enter: Callable[[], AbstractContextManager[Any]]
    enter = importlib.import_module("fake_device").fake_device
    return enter


@pytest.fixture(scope="session")
def run_together() -> Callable[..., list[Any]]:
    """Return the function of tests/run_together.py: the processes of one run, as threads."""
    run: Callable[..., list[Any]] = importlib.import_module("run_together").run_together
    return run


@pytest.fixture(scope="session")
def parse_graph() -> ParseGraph:
    """Return a function from graph text to a checked model with inferred shapes.

    A declared tensor that no node makes becomes an initializer: the array given under its name, else small normal
    numbers that depend on the name only. Text without a header gets IR 8 and opset 17 (or `opset`). With `check=False`
    the model may be wrong, and gets no inferred shapes.
    """

    def parse(
        text: str, *, opset: int = 17, check: bool = True, **arrays: NDArray[Any]
    ) -> onnx.ModelProto:
        header = "" if text.lstrip().startswith("<ir_version") else _HEADER.format(opset=opset)
        model = onnx.parser.parse_model(header + text.strip())
        made = {name for node in model.graph.node for name in node.output}
        declared = [item for item in model.graph.value_info if item.name not in made]
        for item in declared:
            value = arrays.get(item.name)
            if value is None:
                value = _small_numbers(item)
            model.graph.initializer.append(numpy_helper.from_array(value, item.name))
            model.graph.value_info.remove(item)
        if not check:
            return model
        onnx.checker.check_model(model, full_check=True)
        return onnx.shape_inference.infer_shapes(model, strict_mode=True)

    return parse


def _small_numbers(item: onnx.ValueInfoProto) -> NDArray[Any]:
    kind = item.type.tensor_type
    shape = [dim.dim_value for dim in kind.shape.dim]
    dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)
    numbers = np.random.default_rng(zlib.crc32(item.name.encode())).standard_normal(shape)
    return (numbers / 4 if np.issubdtype(dtype, np.floating) else 4 * numbers).astype(dtype)
