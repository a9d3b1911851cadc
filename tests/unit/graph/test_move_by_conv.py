"""Strides and new channels as a convolution with the identity: when it is written, and that no code changes."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest

from edgeq.graph.integer_forms import fit_kernels
from edgeq.graph.unread import names_read
from edgeq.graph.view import GraphView, attribute

# A shortcut of a residual network without weights, as it is written before the forms: each tensor on one grid.
NET = """<ir_version: 8, opset_import: ["" : 17]>
g (float[N,16,9,8] x) => (float[N,32,5,4] y)
<float s = {0.05}, uint8 z = {128}, float s2 = {0.07}, int64[1] zero = {0}, int64[1] two = {2},
 int64[1] end = {9223372036854775807}, int64[1] rows = {2}, int64[1] columns = {3},
 int64[4] front = {0,8,0,0}, int64[4] behind = {0,8,0,0}>
{
  q = QuantizeLinear(x, s, z)
  d = DequantizeLinear(q, s, z)
  a = Slice(d, zero, end, rows, two)
  aq = QuantizeLinear(a, s, z)
  ad = DequantizeLinear(aq, s, z)
  b = Slice(ad, zero, end, columns, two)
  bq = QuantizeLinear(b, s, z)
  bd = DequantizeLinear(bq, s, z)
  sizes = Concat<axis=0>(front, behind)
  p = Pad(bd, sizes)
  pq = QuantizeLinear(p, s, z)
  y = DequantizeLinear(pq, s, z)
}"""


def run(model: onnx.ModelProto, x: np.ndarray, *, optimise: bool) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    level = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = level.ORT_ENABLE_ALL if optimise else level.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model.SerializeToString(), options).run(None, {"x": x})[0]


def fitted(text: str) -> onnx.ModelProto:
    model = onnx.parser.parse_model(text)
    fit_kernels(model)
    onnx.checker.check_model(model, full_check=True)
    return model


def operators(model: onnx.ModelProto) -> set[str]:
    return {node.op_type for node in model.graph.node}


def all_codes(channels: int = 16) -> np.ndarray:
    """Return values that fall on every code, and beyond both ends."""
    values = (np.arange(3 * channels * 9 * 8, dtype=np.float32) % 300 - 150) * np.float32(0.05)
    return values.reshape(3, channels, 9, 8)


@pytest.mark.parametrize("optimise", [False, True])
def test_the_convolution_gives_the_same_codes(optimise):
    plain, written = onnx.parser.parse_model(NET), fitted(NET)
    assert "Conv" in operators(written)
    x = all_codes()
    np.testing.assert_array_equal(run(written, x, optimise=optimise), run(plain, x, optimise=False))


def test_it_takes_the_place_of_both_slices_and_the_pad():
    written = fitted(NET)
    assert operators(written) == {"QuantizeLinear", "DequantizeLinear", "Conv"}
    conv = GraphView(written).producer("pq/moved")
    assert attribute(conv, "strides") == [2, 2]


def test_its_codes_keep_their_name():
    assert GraphView(fitted(NET)).producer("pq").op_type == "QuantizeLinear"


def test_onnx_runtime_computes_it_on_integers(tmp_path):
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    onnxruntime.InferenceSession(fitted(NET).SerializeToString(), options)
    assert "QLinearConv" in operators(onnx.load(tmp_path / "optimised.onnx"))


def test_nothing_is_left_that_nobody_reads():
    graph = fitted(NET).graph
    made = {name for node in graph.node for name in node.output}
    known = made | {item.name for item in graph.initializer}
    assert known - names_read(graph) == {"s2"}  # which nothing reads in NET either


def test_writing_twice_changes_nothing_more():
    written = fitted(NET)
    again = onnx.ModelProto()
    again.CopyFrom(written)
    fit_kernels(again)
    assert again.SerializeToString() == written.SerializeToString()


def test_strides_of_one_axis_multiply():
    text = NET.replace("b = Slice(ad, zero, end, columns,", "b = Slice(ad, zero, end, rows,")
    text = text.replace("float[N,32,5,4] y", "float[N,32,3,8] y")
    written = fitted(text)
    assert attribute(GraphView(written).producer("pq/moved"), "strides") == [4, 1]
    plain = onnx.parser.parse_model(text)
    np.testing.assert_array_equal(
        run(written, all_codes(), optimise=True), run(plain, all_codes(), optimise=False)
    )


def test_a_slice_whose_result_is_read_elsewhere_stays():
    text = NET.replace("float[N,32,5,4] y)", "float[N,32,5,4] y, float[N,16,5,8] ad)")
    written = fitted(text)
    view = GraphView(written)
    assert attribute(view.producer("pq/moved"), "strides") == [1, 2]
    assert view.producer("a").op_type == "Slice"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("b = Slice(ad, zero,", "b = Slice(ad, two,"),
        ("end = {9223372036854775807}", "end = {6}"),
        ("front = {0,8,0,0}", "front = {0,8,1,0}"),
        ("front = {0,8,0,0}", "front = {1,8,0,0}"),
        (
            "front = {0,8,0,0}, int64[4] behind = {0,8,0,0}",
            "front = {0,1,0,0}, int64[4] behind = {0,2,0,0}",
        ),
        ("front = {0,8,0,0}", "front = {0,-8,0,0}"),
        ("Pad(bd", 'Pad<mode="edge">(bd'),
        ("bq = QuantizeLinear(b, s, z)", "bq = QuantizeLinear(b, s2, z)"),
        ("y = DequantizeLinear(pq, s, z)", "y = DequantizeLinear(pq, s2, z)"),
        ("float[N,16,9,8] x", "float[N,C,9,8] x"),
        ("float[N,16,9,8] x", "float[N,6,9,8] x"),
        ("float[N,16,9,8] x", "float[N,64,9,8] x"),
    ],
    ids=[
        "an offset",
        "an end",
        "rows are padded",
        "samples are padded",
        "channels that the kernel does not take",
        "channels are cut",
        "edges are repeated",
        "another scale between",
        "another scale behind",
        "unknown channels",
        "channels in that the kernel does not take",
        "so many channels that copies are faster",
    ],
)
def test_it_is_left_alone(old, new):
    assert old in NET
    model = onnx.parser.parse_model(NET.replace(old, new))
    for item in model.graph.output:
        item.type.tensor_type.ClearField("shape")
    fit_kernels(model)
    assert "Conv" not in operators(model)
    assert "Slice" in operators(model)
