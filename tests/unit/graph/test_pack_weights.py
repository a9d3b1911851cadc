from __future__ import annotations

import dataclasses

import numpy as np
import onnx
import onnxruntime
import pytest

from deploy.cards import load_card
from edgeq.core.errors import TargetError
from edgeq.core.quantized import PackedMatrix
from edgeq.graph.lint import lint
from edgeq.graph.pack_weights import find_matrices, pack_weights
from edgeq.quant.weight_only import Method, pack_matrix

CARD = load_card("rtx-4090")
MATMUL = "g (float[N,5,128] x) => (float[N,5,24] y) <float[128,24] w> { y = MatMul(x, w) }"
GEMM = """g (float[N,128] x) => (float[N,24] y) <float[24,128] w, float[24] b>
{ y = Gemm<transB=1>(x, w, b) }"""
PLAIN_GEMM = """g (float[N,128] x) => (float[N,24] y) <float[128,24] w, float[24] b>
{ y = Gemm(x, w, b) }"""
SHARED = """g (float[N,128] x) => (float[N,24] y) <float[128,24] w>
{ a = MatMul(x, w) n = Neg(x) b = MatMul(n, w) y = Sub(a, b) }"""
REPEATED = """g (float[N,128] x) => (float[N,24] y) <float[128,24] w>
{ v = Identity(w) u = Identity(v) a = MatMul(x, u) n = Neg(x) b = MatMul(n, w) y = Sub(a, b) }"""
COMPUTED = """g (float[N,5,128] x) => (float[N,5,5] y)
{ w = Transpose<perm=[0,2,1]>(x) y = MatMul(x, w) }"""
ALSO_READ = """g (float[N,128] x) => (float[N,24] y) <float[128,24] w, int64[1] k = {0}>
{ a = MatMul(x, w) e = ReduceSum(w, k) y = Add(a, e) }"""
CONVOLUTION = """g (float[N,64,8,8] x) => (float[N,64,8,8] y) <float[64,64,1,1] w>
{ y = Conv(x, w) }"""
GRAPHS = {
    "matmul": MATMUL,
    "gemm-transposed": GEMM,
    "gemm": PLAIN_GEMM,
    "shared": SHARED,
    "repeated": REPEATED,
}


def weights(model: onnx.ModelProto, name: str = "w") -> np.ndarray:
    (found,) = [item for item in model.graph.initializer if item.name == name]
    return onnx.numpy_helper.to_array(found)


def pack(model: onnx.ModelProto, method: Method = Method.MSE, *, block: int = 64, card=CARD):
    """Return the written model and the packed matrices."""
    sites, _ = find_matrices(model, block=block)
    packed = {}
    for site in sites:
        weight = weights(model, site.tensor)
        packed[site.tensor] = pack_matrix(
            weight.T if site.is_transposed else weight,
            block=site.block,
            method=method,
            may_split=site.may_split,
        )
    return pack_weights(model, sites, packed, card=card), packed


def run(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session.run(None, {"x": x})[0]


def with_weight(model: onnx.ModelProto, packed: dict[str, PackedMatrix]) -> onnx.ModelProto:
    """Return the float model with the weight that the packed one stands for."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for item in copy.graph.initializer:
        if item.name in packed:
            value = packed[item.name].weight()
            value = value if value.shape == tuple(item.dims) else value.T
            item.CopyFrom(onnx.numpy_helper.from_array(np.ascontiguousarray(value), item.name))
    return copy


@pytest.fixture
def spiked() -> np.ndarray:
    weight = np.random.default_rng(0).normal(size=(128, 24)).astype(np.float32)
    weight[9] *= 20
    return weight


@pytest.mark.parametrize("method", list(Method))
@pytest.mark.parametrize("text", GRAPHS.values(), ids=GRAPHS)
def test_onnxruntime_computes_with_the_weights_of_core_numerics(parse_graph, spiked, text, method):
    weight = spiked if "float[128,24] w" in text else np.ascontiguousarray(spiked.T)
    model = parse_graph(text, w=weight)
    result, packed = pack(model, method)
    onnx.checker.check_model(result.model, full_check=True)
    assert {item.check for item in lint(result.model, CARD)} <= {"typing.float32-graph"}
    assert bool(len(packed["w"].rows)) == (method is Method.EASYQUANT)
    shape = [2 if size.dim_param else size.dim_value for size in
             model.graph.input[0].type.tensor_type.shape.dim]  # fmt: skip
    x = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    expected = run(with_weight(model, packed), x)
    np.testing.assert_allclose(run(result.model, x), expected, rtol=1e-4, atol=1e-4)


def test_the_file_keeps_its_names_and_loses_the_float_weight(parse_graph):
    model = parse_graph(GEMM)
    before = model.SerializeToString()
    result, _ = pack(model)
    assert model.SerializeToString() == before
    graph = result.model.graph
    assert [item.name for item in graph.output] == ["y"]
    stored = {item.name: item for item in graph.initializer}
    assert "w" not in stored
    assert (stored["w/codes"].data_type, len(stored["w/codes"].raw_data)) == (22, 24 * 128 // 2)
    assert list(stored["w/scale"].dims) == [24, 2]
    (dequantizer,) = [node for node in graph.node if node.op_type == "DequantizeLinear"]
    assert {item.name: item.i for item in dequantizer.attribute} == {"axis": 1, "block_size": 64}
    assert result.touched == ("w/dq",)
    assert "opset 17 was raised to 21" in result.findings[0]


def test_two_weights_of_one_shape_have_one_zero_point(parse_graph):
    model = parse_graph("""g (float[N,64] x) => (float[N,64] y) <float[64,64] a, float[64,64] b>
    { h = MatMul(x, a) y = MatMul(h, b) }""")
    result, _ = pack(model)
    names = [item.name for item in result.model.graph.initializer if "zero_point" in item.name]
    assert names == ["a/zero_point"]


def test_a_second_packing_finds_nothing_to_do(parse_graph):
    result, _ = pack(parse_graph(MATMUL))
    inferred = onnx.shape_inference.infer_shapes(result.model)
    assert find_matrices(inferred, block=64)[0] == ()


def test_a_product_with_factors_is_packed_and_not_split(parse_graph, spiked):
    text = PLAIN_GEMM.replace("Gemm(", "Gemm<alpha=0.5>(")
    result, packed = pack(parse_graph(text, w=spiked), Method.EASYQUANT)
    assert not len(packed["w"].rows)
    assert "Gather" not in {node.op_type for node in result.model.graph.node}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (MATMUL.replace("128", "100"), "no multiple of the block"),
        (MATMUL.replace("128", "96"), "--block 32 would divide"),
        (MATMUL.replace("24", "23"), "even last axis"),
        (MATMUL.replace("24", "10"), "128 x 10 is too small"),
        (MATMUL.replace("[128,24]", "[1,128,24]"), "no float32 matrix"),
        (COMPUTED, "no constant"),
        (ALSO_READ, "also read by ReduceSum"),
        (CONVOLUTION, "no TensorRT has INT4 convolutions"),
    ],
)  # fmt: skip
def test_what_stays_float_has_its_reason(parse_graph, text, words):
    sites, (untouched, *_) = find_matrices(parse_graph(text), block=128)
    assert sites == ()
    assert words in untouched.reason


@pytest.mark.parametrize(
    ("inputs", "asked", "block"), [(256, 128, 128), (192, 128, 64), (96, 32, 32)]
)
def test_the_block_is_halved_where_it_does_not_divide(parse_graph, inputs, asked, block):
    (site,), _ = find_matrices(parse_graph(MATMUL.replace("128", str(inputs))), block=asked)
    assert site.block == block


def test_a_runtime_that_documents_lower_opsets_is_told_and_warned_of(parse_graph):
    card = load_card("jetson-orin")
    result, _ = pack(parse_graph(MATMUL), card=card)
    assert "not tried on a device" in result.findings[-1]
    assert [item.check for item in lint(result.model, card)] == ["model.opset-int4"]


def test_a_model_above_the_targets_opset_is_refused(parse_graph):
    card = dataclasses.replace(load_card("jetson-orin"), opset_max=20)
    model = parse_graph('<ir_version: 10, opset_import: ["" : 22]> ' + MATMUL)
    with pytest.raises(TargetError, match="opset 22"):
        pack(model, card=card)
