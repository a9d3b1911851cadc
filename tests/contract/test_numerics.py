"""One grid, four executors, one answer: numpy, the student's fake quantizer, onnx.reference, ONNX Runtime.

All four divide in float32 and round half to even, so their codes and values are compared bit by bit, ties included.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from edgeq.core.numerics import dequantize, quantize
from edgeq.core.plan import Grid
from edgeq.quant.fake_quant import FakeQuantizer

Codes = NDArray[np.int8]
Floats = NDArray[np.float32]
Executor = Callable[[Floats, Floats, Grid], tuple[Codes, Floats]]

GRIDS = [
    *(Grid(bits=bits) for bits in range(2, 9)),
    *(Grid(bits=bits, signed=False) for bits in range(2, 8)),
    *(Grid(bits=bits, narrow=True) for bits in range(2, 9)),
    *(Grid(bits=bits, narrow=True, axis=axis) for bits in (2, 4, 8) for axis in (0, 1)),
    Grid(bits=8, axis=0),
    Grid(bits=8, axis=1),
]
CHANNELS = 3


def by_numpy(x: Floats, scale: Floats, grid: Grid) -> tuple[Codes, Floats]:
    axis = grid.axis or 0
    codes = quantize(x, scale, low=grid.low, high=grid.high, axis=axis)
    return codes, dequantize(codes, scale, axis=axis)


def by_torch(x: Floats, scale: Floats, grid: Grid) -> tuple[Codes, Floats]:
    quantizer = FakeQuantizer(grid, torch.from_numpy(scale), ndim=x.ndim)
    assert quantizer.scale().detach().numpy().tobytes() == scale.tobytes()
    values = quantizer(torch.from_numpy(x))
    codes = quantizer.codes(torch.from_numpy(x))
    return codes.numpy().astype(np.int8), values.detach().numpy()


def by_reference(x: Floats, scale: Floats, grid: Grid) -> tuple[Codes, Floats]:
    codes, values = ReferenceEvaluator(make_model(x, scale, grid)).run(None, {"x": x})
    return np.asarray(codes), np.asarray(values)


def by_onnxruntime(x: Floats, scale: Floats, grid: Grid) -> tuple[Codes, Floats]:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    model = make_model(x, scale, grid).SerializeToString()
    codes, values = onnxruntime.InferenceSession(model, options).run(None, {"x": x})
    return codes, values


EXECUTORS: dict[str, Executor] = {
    "torch": by_torch,
    "onnx.reference": by_reference,
    "onnxruntime": by_onnxruntime,
}


def make_model(x: Floats, scale: Floats, grid: Grid) -> onnx.ModelProto:
    """Return Clip -> Q -> DQ, with the bounds as `insert_qdq` writes them; per channel, Max and Min are the Clip.

    In opset 19, since onnx.reference has no older DequantizeLinear.
    """
    axis = {} if grid.axis is None else {"axis": grid.axis}
    shape = [1] * x.ndim if grid.axis is not None else []
    if grid.axis is not None:
        shape[grid.axis] = -1
    constants = {
        "scale": scale,
        "zero": np.zeros(scale.shape, np.int8),
        "low": (np.float32(grid.low) * scale).reshape(shape),
        "high": (np.float32(grid.high) * scale).reshape(shape),
    }
    clip = [helper.make_node("Clip", ["x", "low", "high"], ["legal"])]
    if grid.axis is not None:
        clip = [
            helper.make_node("Max", ["x", "low"], ["above"]),
            helper.make_node("Min", ["above", "high"], ["legal"]),
        ]
    source = "legal" if grid.needs_clip else "x"
    graph = helper.make_graph(
        [
            *(clip if grid.needs_clip else []),
            helper.make_node("QuantizeLinear", [source, "scale", "zero"], ["codes"], **axis),
            helper.make_node("DequantizeLinear", ["codes", "scale", "zero"], ["values"], **axis),
        ],
        "contract",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape)],
        [
            helper.make_tensor_value_info("codes", TensorProto.INT8, x.shape),
            helper.make_tensor_value_info("values", TensorProto.FLOAT, x.shape),
        ],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(graph, ir_version=9, opset_imports=[helper.make_opsetid("", 19)])


def make_scale(grid: Grid, *, exact: bool) -> Floats:
    """Return powers of two, at which ties are exact, or steps that float32 cannot represent."""
    steps = [0.25, 1.0, 0.0625] if exact else [0.1, 0.37, 0.0123]
    chosen = np.float32(steps if grid.axis is not None else steps[0])
    quantizer = FakeQuantizer(grid, torch.from_numpy(np.array(chosen)), ndim=2)
    return np.array(quantizer.scale().detach().numpy())


def make_values(grid: Grid, scale: Floats) -> Floats:
    """Return every tie, every grid point, their float32 neighbours and values far outside, [C, n] or [n, C] or [n]."""
    points = np.arange(grid.low - 2, grid.high + 3, 0.5, dtype=np.float32)
    points = np.concatenate([points, np.float32([-1e4, 1e4, -0.0, 0.3, -0.3])])
    if grid.axis is None:
        values = points * scale
    else:
        values = points[:, None] * scale if grid.axis == 1 else scale[:, None] * points
    spread = [
        values,
        np.nextafter(values, np.float32(np.inf)),
        np.nextafter(values, np.float32(-np.inf)),
    ]
    joined: Floats = np.concatenate(spread, axis=1 if grid.axis == 0 else 0)
    return joined


@pytest.mark.parametrize("exact", [True, False], ids=["exact_ties", "near_ties"])
@pytest.mark.parametrize("grid", GRIDS, ids=str)
@pytest.mark.parametrize("executor", EXECUTORS)
def test_every_executor_gives_numpys_codes_and_values(executor, grid, exact):
    scale = make_scale(grid, exact=exact)
    x = make_values(grid, scale)
    codes, values = by_numpy(x, scale, grid)
    assert (codes.min(), codes.max()) == (grid.low, grid.high)
    found_codes, found_values = EXECUTORS[executor](x, scale, grid)
    assert found_codes.dtype == np.int8
    np.testing.assert_array_equal(found_codes, codes)
    np.testing.assert_array_equal(found_values, values)


@pytest.mark.parametrize(
    "shape", [(CHANNELS, 4), (CHANNELS, 2, 3, 3), (2, CHANNELS, 2, 2)], ids=str
)
@pytest.mark.parametrize("executor", EXECUTORS)
def test_weights_of_any_rank_agree(executor, shape):
    axis = shape.index(CHANNELS)
    grid = Grid(bits=4, narrow=True, axis=axis)
    scale = make_scale(grid, exact=False)
    x = np.random.default_rng(0).normal(0, 0.5, shape).astype(np.float32)
    quantized = by_numpy(x, scale, grid)
    for found, wanted in zip(EXECUTORS[executor](x, scale, grid), quantized, strict=True):
        np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("grid", [grid for grid in GRIDS if grid.needs_clip], ids=str)
def test_a_weight_on_its_grid_needs_no_clip_to_come_back(grid):
    """The form of the weights for targets that want them in float: dequantize(codes) -> Q -> DQ without a Clip."""
    scale = make_scale(grid, exact=False)
    codes, values = by_numpy(make_values(grid, scale), scale, grid)
    again = quantize(values, scale, low=-128, high=127, axis=grid.axis or 0)
    np.testing.assert_array_equal(again, codes)
