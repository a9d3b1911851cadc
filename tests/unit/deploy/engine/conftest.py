"""A Q/DQ file of four products, the stand-in for TensorRT, and a card that fits both."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import pytest
from fake_trt import Script, make_tensorrt
from onnx import numpy_helper, parser

from deploy.board.driver import Device
from deploy.cards import load_card
from edgeq.core.specs import TargetCard

ORIN = Device(name="Orin", compute_capability="8.7", cuda_version="12.6")

# conv1 and the nameless c2 have two dequantized factors; `half` has one; `fc` has INT4 weights.
_TEXT = """
<ir_version: 8, opset_import: ["" : 17]>
net (float[{n},3,8,8] x) => (float[{n},5] y) {{
  xq = QuantizeLinear (x, s, z)
  xd = DequantizeLinear (xq, s, z)
  w1d = DequantizeLinear (w1, s, z)
  [conv1] c1 = Conv <pads = [1, 1, 1, 1]> (xd, w1d)
  r = Relu (c1)
  rq = QuantizeLinear (r, s, z)
  rd = DequantizeLinear (rq, s, z)
  w2d = DequantizeLinear (w2, s, z)
  c2 = Conv <pads = [1, 1, 1, 1]> (rd, w2d)
  [half] c3 = Conv <pads = [1, 1, 1, 1]> (c2, w2d)
  p = GlobalAveragePool (c3)
  f = Flatten (p)
  w3d = DequantizeLinear (w3, s, z4)
  [fc] y = MatMul (f, w3d)
}}
"""


def make_model(batch: str = "1") -> onnx.ModelProto:
    model = parser.parse_model(_TEXT.format(n=batch))
    ones = {"w1": (4, 3, 3, 3), "w2": (4, 4, 3, 3)}
    arrays = {name: np.ones(shape, np.int8) for name, shape in ones.items()}
    arrays |= {"s": np.float32(0.5), "z": np.int8(0)}
    model.graph.initializer.extend(
        numpy_helper.from_array(np.asarray(value), name) for name, value in arrays.items()
    )
    int4 = onnx.TensorProto.INT4
    model.graph.initializer.extend(
        (
            onnx.helper.make_tensor("w3", int4, (4, 5), np.ones(20, np.int8)),
            onnx.helper.make_tensor("z4", int4, (), np.zeros(1, np.int8)),
        )
    )
    return model


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.qdq.onnx"
    onnx.save(make_model(), path)
    return path


@pytest.fixture
def dynamic_model(tmp_path: Path) -> Path:
    path = tmp_path / "dynamic.qdq.onnx"
    onnx.save(make_model("N"), path)
    return path


@pytest.fixture
def script() -> Script:
    return Script(
        layers=[
            ("Reformatting CopyNode", "Reformat", ["conv1"], "Float"),
            ("conv1 + r", "CaskConvolution", ["conv1", "node_of_r"], "Int8"),
            ("c2", "CaskConvolution", ["node_of_c2"], "Half"),
            ("q", "Quantize", ["node_of_xq"], "Float"),
        ]
    )


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch, script: Script) -> Callable[[str], ModuleType]:
    """Return a function that puts the stand-in of a release in the place of `tensorrt`."""

    def put(release: str) -> ModuleType:
        module = make_tensorrt(release, script)
        monkeypatch.setitem(sys.modules, "tensorrt", module)
        return module

    return put


@pytest.fixture
def make_card() -> Callable[..., TargetCard]:
    """Return a function that makes the card of a Jetson Orin with another TensorRT."""

    def make(release: str, *, is_weak: bool | None = None) -> TargetCard:
        weak = release.startswith(("8", "10.0", "10.3", "10.7")) if is_weak is None else is_weak
        card = load_card("jetson-orin")
        return dataclasses.replace(card, runtime_version=release, weak_typing=weak)

    return make
