"""A tiny residual net, its Q/DQ form written by hand, and what belongs to them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

from edgeq.core.plan import Decision, Grid, OwnRange, QuantPlan, Role, Site
from edgeq.core.samples import SampleSet
from edgeq.core.specs import GraphFlavour, InputSpec, Layout, NumberFormat, TargetCard

_FLOAT = """
<ir_version: 8, opset_import: ["" : 17]>
tiny (float[{n},3,8,8] x) => (float[{n},5] logits) {{
  c1 = Conv <pads = [1, 1, 1, 1]> (x, w1, b1)
  r1 = Relu (c1)
  c2 = Conv <pads = [1, 1, 1, 1]> (r1, w2)
  s = Add (c2, r1)
  p = GlobalAveragePool (s)
  f = Flatten (p)
  logits = Gemm <transB = 1> (f, w3, b3)
}}
"""

# x has 8 bits; r1 has the grid 0..15, so a Clip stands before its QuantizeLinear.
_QDQ = """
<ir_version: 8, opset_import: ["" : 17]>
tiny (float[{n},3,8,8] x) => (float[{n},5] logits) {{
  x_q = QuantizeLinear (x, x_scale, zero)
  x_dq = DequantizeLinear (x_q, x_scale, zero)
  c1 = Conv <pads = [1, 1, 1, 1]> (x_dq, w1, b1)
  r1 = Relu (c1)
  r1_clip = Clip (r1, r1_low, r1_high)
  r1_q = QuantizeLinear (r1_clip, r1_scale, zero)
  r1_dq = DequantizeLinear (r1_q, r1_scale, zero)
  c2 = Conv <pads = [1, 1, 1, 1]> (r1_dq, w2)
  s = Add (c2, r1_dq)
  p = GlobalAveragePool (s)
  f = Flatten (p)
  logits = Gemm <transB = 1> (f, w3, b3)
}}
"""

X_SCALE, R1_SCALE = np.float32(0.03), np.float32(0.25)


def _make_model(text: str, batch: str) -> onnx.ModelProto:
    rng = np.random.default_rng(7)
    values = {
        "w1": rng.normal(0, 0.3, (4, 3, 3, 3)),
        "b1": rng.normal(0, 0.1, 4),
        "w2": rng.normal(0, 0.2, (4, 4, 3, 3)),
        "w3": rng.normal(0, 1, (5, 4)),
        "b3": rng.normal(0, 0.1, 5),
        "x_scale": X_SCALE,
        "r1_scale": R1_SCALE,
        "r1_low": np.float32(0),
        "r1_high": 15 * R1_SCALE,
    }
    model = parser.parse_model(text.format(n=batch))
    arrays = {name: np.asarray(value, np.float32) for name, value in values.items()}
    used = {name for node in model.graph.node for name in node.input}
    model.graph.initializer.extend(
        numpy_helper.from_array(array, name)
        for name, array in {**arrays, "zero": np.int8(0)}.items()
        if name in used
    )
    onnx.checker.check_model(model, full_check=True)
    return model


@pytest.fixture
def make_teacher() -> Callable[[str], onnx.ModelProto]:
    return lambda batch="N": _make_model(_FLOAT, batch)


@pytest.fixture
def make_qdq() -> Callable[[str], onnx.ModelProto]:
    return lambda batch="N": _make_model(_QDQ, batch)


@pytest.fixture
def teacher() -> onnx.ModelProto:
    return _make_model(_FLOAT, "N")


@pytest.fixture
def qdq() -> onnx.ModelProto:
    return _make_model(_QDQ, "N")


@pytest.fixture
def plan() -> QuantPlan:
    def decide(tensor: str, grid: Grid, node: str) -> Decision:
        return Decision(
            tensor=tensor,
            role=Role.ACTIVATION,
            grid=grid,
            owner=OwnRange(),
            sites=(Site(node=node, index=0, op_type="Conv"),),
            rule="test",
            reason="written by hand",
        )

    decisions = (
        decide("x", Grid(bits=8), "c1"),
        decide("r1", Grid(bits=4, signed=False), "c2"),
    )
    return QuantPlan(target="orin", bits="w8a4", decisions=decisions)


@pytest.fixture
def samples() -> SampleSet:
    rng = np.random.default_rng(3)
    x = rng.standard_normal((20, 3, 8, 8)).astype(np.float32)
    return SampleSet(input_name="x", samples=x, labels=None, provenance={"seed": 3})


@pytest.fixture
def input_spec() -> InputSpec:
    return InputSpec(
        name="x",
        shape=(3, 8, 8),
        batch=None,
        dtype="float32",
        layout=Layout.NCHW,
        mean=(0.5, 0.5, 0.5),
        std=(0.25, 0.25, 0.25),
        low=(-2.0,),
        high=(2.0,),
    )


@pytest.fixture
def make_card() -> Callable[..., TargetCard]:
    def make(version: str = "10.3", **changes: object) -> TargetCard:
        facts = {
            "name": "orin",
            "title": "Jetson Orin",
            "runtime": "tensorrt",
            "runtime_version": version,
            "stack": "JetPack 6.2",
            "compute_capability": "8.7",
            "opset_min": 13,
            "opset_max": 20,
            "ir_max": 9,
            "weak_typing": True,
            "prequantized_weights": True,
            "flavour": GraphFlavour.FP32_TYPED,
            "formats": (NumberFormat.FP32, NumberFormat.FP16, NumberFormat.INT8),
            "dla_cores": 0,
            "dla_int8_tops": 0.0,
            "dla": "none: made up for tests",
            "memory_gb": 8.0,
            "bandwidth_gb_s": 102.0,
            "int8_tops": 40.0,
            "fp16_tops": 20.0,
            "notes": (),
            "sources": (),
        }
        return TargetCard(**{**facts, **changes})

    return make
