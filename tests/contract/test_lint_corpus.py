"""The lint on files of other tools and on ours, and what `--fix` makes of them, by ONNX Runtime's own word."""

from __future__ import annotations

import collections
from dataclasses import dataclass

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from deploy.cards import load_card
from edgeq.graph.lint import Severity, lint
from edgeq.graph.lint.mend import mend
from edgeq.graph.read import load_any_model

CARD = load_card("jetson-orin")
NET = """g (float[N,4,8,8] x) => (float[N,6] y)
 <float[8,4,3,3] w0, float[8] b0, float[8,8,3,3] w1, float[8] b1, float[6,8] w2, float[6] b2>
{
    c0 = Conv<pads=[1,1,1,1]>(x, w0, b0)
    r0 = Relu(c0)
    c1 = Conv<pads=[1,1,1,1]>(r0, w1, b1)
    a = Add(c1, r0)
    r1 = Relu(a)
    p = GlobalAveragePool(r1)
    f = Flatten(p)
    y = Gemm<transB=1>(f, w2, b2)
}"""


class Reader(CalibrationDataReader):
    """Eight batches of normal numbers."""

    def __init__(self) -> None:
        draw = np.random.default_rng(0)
        self._feeds = iter(
            [{"x": draw.normal(size=(2, 4, 8, 8)).astype(np.float32)} for _ in range(8)]
        )

    def get_next(self):
        return next(self._feeds, None)


@dataclass(frozen=True)
class Variant:
    """Options of `quantize_static`, and the errors that the lint finds before and after mending."""

    name: str
    activations: QuantType
    weights: QuantType
    before: frozenset[str]
    after: frozenset[str] = frozenset()
    per_channel: bool = False
    symmetric: bool = True
    weights_symmetric: bool = True


S8, U8 = QuantType.QInt8, QuantType.QUInt8
BIAS = frozenset({"qdq.bias"})
VARIANTS = [
    Variant("s8s8", S8, S8, BIAS),
    Variant("s8s8-channels", S8, S8, BIAS, per_channel=True),
    Variant("u8s8-symmetric", U8, S8, BIAS | {"qdq.type", "qdq.zero-point"}),
    Variant("u8u8-symmetric", U8, U8, BIAS | {"qdq.type", "qdq.zero-point"}),
    Variant(
        "u8s8-asymmetric", U8, S8, BIAS | {"qdq.type", "qdq.zero-point"},
        after=frozenset({"qdq.type", "qdq.zero-point"}), symmetric=False,
    ),
    Variant(
        "s8s8-asymmetric", S8, S8, BIAS | {"qdq.zero-point"},
        after=frozenset({"qdq.zero-point"}), symmetric=False, per_channel=True,
    ),
]  # fmt: skip


def run(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session.run(None, {session.get_inputs()[0].name: x})[0]


def errors_of(model: onnx.ModelProto, card=CARD) -> collections.Counter[str]:
    found = lint(model, card)
    return collections.Counter(item.check for item in found if item.severity is Severity.ERROR)


@pytest.fixture
def x() -> np.ndarray:
    return np.random.default_rng(1).normal(size=(3, 4, 8, 8)).astype(np.float32)


@pytest.fixture
def quantized(parse_graph, tmp_path):
    """Return a function from a variant to the file that ONNX Runtime makes, read as any file is."""

    def make(variant: Variant, *, quant_format: QuantFormat = QuantFormat.QDQ) -> onnx.ModelProto:
        onnx.save(parse_graph(NET), tmp_path / "float.onnx")
        quantize_static(
            tmp_path / "float.onnx",
            tmp_path / "quantized.onnx",
            Reader(),
            quant_format=quant_format,
            activation_type=variant.activations,
            weight_type=variant.weights,
            per_channel=variant.per_channel,
            extra_options={
                "ActivationSymmetric": variant.symmetric,
                "WeightSymmetric": variant.weights_symmetric,
            },
        )
        return load_any_model(tmp_path / "quantized.onnx")

    return make


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda item: item.name)
def test_onnxruntimes_files_have_the_errors_that_tensorrt_would_tell(quantized, variant):
    assert set(errors_of(quantized(variant))) == variant.before


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda item: item.name)
def test_mending_leaves_the_outputs_and_only_what_would_change_values(quantized, variant, x):
    model = quantized(variant)
    before = model.SerializeToString()
    fixed, fixes = mend(model, CARD)
    assert model.SerializeToString() == before
    assert {item.check for item in fixes} & variant.before
    assert set(errors_of(fixed)) == variant.after
    onnx.checker.check_model(fixed, full_check=True)
    np.testing.assert_array_equal(run(fixed, x), run(model, x))


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda item: item.name)
def test_a_second_mending_finds_nothing_to_do(quantized, variant):
    fixed, _ = mend(quantized(variant), CARD)
    again, fixes = mend(fixed, CARD)
    assert fixes == ()
    assert again == fixed


def test_the_same_file_is_sound_for_onnxruntime_itself(quantized):
    assert not errors_of(quantized(VARIANTS[4]), load_card("cpu"))


def test_operators_on_integers_are_refused_for_tensorrt_only(quantized):
    model = quantized(VARIANTS[2], quant_format=QuantFormat.QOperator)
    assert {"model.operator", "model.domain"} <= set(errors_of(model))
    assert not {"model.operator", "model.domain"} & set(errors_of(model, load_card("cpu")))


MODEL_OPTIMIZER = """<ir_version: 9, opset_import: ["" : 19]>
g (float[N,4,8,8] x) => (float[N,8,8,8] y)
 <float sx = {0.05}, int8 zx = {0}, float[8,4,3,3] w, float[8] sw, int8[8] zw, float[8] b,
  float sr = {0.1}, int8[8,8,1,1] k, float[8] sk, int8[8] zk>
{
    xq = QuantizeLinear(x, sx, zx)
    xd = DequantizeLinear(xq, sx, zx)
    wq = QuantizeLinear<axis=0>(w, sw, zw)
    wd = DequantizeLinear<axis=0>(wq, sw, zw)
    c = Conv<pads=[1,1,1,1]>(xd, wd, b)
    r = Relu(c)
    rq = QuantizeLinear(r, sr, zx)
    rd = DequantizeLinear(rq, sr, zx)
    kd = DequantizeLinear<axis=0>(k, sk, zk)
    d = Conv(rd, kd)
    a = Add(d, rd)
    y = Relu(a)
}"""
SCALES = np.linspace(0.01, 0.08, 8, dtype=np.float32)


def test_a_file_in_the_style_of_model_optimizer_is_sound(parse_graph):
    zeros = np.zeros(8, np.int8)
    model = parse_graph(MODEL_OPTIMIZER, sw=SCALES, sk=SCALES, zw=zeros, zk=zeros)
    assert lint(model, CARD) == ()
    fixed, fixes = mend(model, CARD)
    assert fixes == ()
    assert fixed == model


def test_mending_leaves_a_bias_that_is_dequantized_to_half_precision(parse_graph):
    text = """<ir_version: 11, opset_import: ["" : 23]> g (float[N,4] x) => (float[N,4] y)
     <int32[4] b = {1001, 2003, 3005, 4007}, float s = {0.001}>
     { d = DequantizeLinear<output_dtype=10>(b, s) f = Cast<to=1>(d) y = Add(x, f) }"""
    model = parse_graph(text)
    fixed, _ = mend(model, load_card("jetson-thor"))
    x = np.zeros((1, 4), np.float32)
    np.testing.assert_array_equal(run(fixed, x), run(model, x))


HALF_FILE = """<ir_version: 9, opset_import: ["" : 19]>
g (float[N,4,8,8] x) => (float[N,8] y)
 <float16 sx, int8 zx = {0}, float16[8,4,3,3] w, float16[8] sw, int8[8] zw, float16[8] b, float16[8,8] m, float16[8] sm>
{
    h = Cast<to=10>(x)
    xq = QuantizeLinear(h, sx, zx)
    xd = DequantizeLinear(xq, sx, zx)
    wq = QuantizeLinear<axis=0>(w, sw, zw)
    wd = DequantizeLinear<axis=0>(wq, sw, zw)
    c = Conv<pads=[1,1,1,1]>(xd, wd, b)
    r = Relu(c)
    rq = QuantizeLinear(r, sx, zx)
    rd = DequantizeLinear(rq, sx, zx)
    p = GlobalAveragePool(rd)
    f = Flatten(p)
    fq = QuantizeLinear(f, sx, zx)
    fd = DequantizeLinear(fq, sx, zx)
    mq = QuantizeLinear<axis=1>(m, sm, zw)
    md = DequantizeLinear<axis=1>(mq, sm, zw)
    o = MatMul(fd, md)
    y = Cast<to=1>(o)
}"""


def test_a_half_precision_file_in_the_style_of_model_optimizer_is_sound_where_fp16_scales_parse(
    parse_graph,
):
    half = SCALES.astype(np.float16)
    model = parse_graph(
        HALF_FILE, sx=np.float16(0.05), sw=half, sm=half, zw=np.zeros(8, np.int8)
    )  # fmt: skip
    for name in ("rtx-4090", "jetson-orin"):
        assert not errors_of(model, load_card(name))
        assert mend(model, load_card(name))[1] == ()
    assert "model.opset" in errors_of(model, load_card("jetson-xavier"))


def test_a_files_fp8_pairs_are_refused_by_a_chip_without_fp8(parse_graph):
    text = """<ir_version: 9, opset_import: ["" : 19]> g (float[N,4] x) => (float[N,4] y)
    <float s = {0.1}, float8e4m3fn z> { q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z) y = Relu(d) }"""
    zero = numpy_helper.to_array(
        onnx.helper.make_tensor("z", onnx.TensorProto.FLOAT8E4M3FN, [], [0.0])
    )
    model = parse_graph(text, z=zero)
    assert not errors_of(model, load_card("rtx-4090"))
    assert errors_of(model)["qdq.type"] == 2


def test_what_hides_in_implicit_forms_is_written_out(parse_graph, x):
    text = MODEL_OPTIMIZER
    for old, new in (
        ("kd = DequantizeLinear<axis=0>(k, sk, zk)", "kt = DequantizeLinear(k, sk)"),
        ("d = Conv(rd, kd)", "kd = Transpose<perm=[1,0,2,3]>(kt) d = Conv(rd, kd)"),
        (", int8[8] zk", ""),
        ("int8[8] zw", "int8[1] zw"),
    ):
        assert old in text
        text = text.replace(old, new)
    model = parse_graph(
        text, check=False, sw=SCALES, sk=SCALES, zw=np.zeros(1, np.int8),
        k=np.random.default_rng(0).integers(-127, 128, (8, 8, 1, 1)).astype(np.int8),
    )  # fmt: skip
    implicit = {"qdq.inputs", "qdq.axis", "qdq.zero-point-shape"}
    assert implicit <= set(errors_of(model))
    fixed, fixes = mend(model, CARD)
    assert {item.check for item in fixes} == implicit
    assert not implicit & set(errors_of(fixed))
    bare = onnx.ModelProto()  # with the weight's DQ as it was; the rest ONNX Runtime would refuse
    bare.CopyFrom(fixed)
    (weight,) = [node for node in bare.graph.node if node.input[0] == "k"]
    del weight.input[2], weight.attribute[:]
    np.testing.assert_array_equal(run(fixed, x), run(bare, x))


def test_a_missing_zero_point_of_uint8_is_left_alone(parse_graph):
    model = parse_graph(
        """g (float[N,4] x) => (float[N,4] y) <float s = {0.1}>
        { q = QuantizeLinear(x, s) d = DequantizeLinear(q, s) y = Relu(d) }"""
    )
    fixed, fixes = mend(model, CARD)
    assert fixes == ()
    assert fixed == model
    assert errors_of(fixed)["qdq.inputs"] == 2


def test_codes_that_a_node_reads_as_they_are_stay_uint8(parse_graph):
    model = parse_graph(
        """g (float[N,4,8,8] x) => (float[N,4,8,8] y, uint8[N,4,8,8] m) <float s = {0.1}, uint8 z = {128}>
        { q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z) m = MaxPool<kernel_shape=[1,1]>(q) y = Relu(d) }"""
    )
    _, fixes = mend(model, CARD)
    assert fixes == ()


@pytest.mark.parametrize(("opset", "wanted"), [(11, 13), (21, 20), (17, 17)])
def test_the_opset_is_brought_into_the_targets_range(parse_graph, x, opset, wanted):
    ir = 10 if opset > 19 else 8
    model = parse_graph(
        f'<ir_version: {ir}, opset_import: ["" : {opset}]> '
        "g (float[N,4,8,8] x) => (float[N,4,8,8] y) { r = Relu(x) y = MaxPool<kernel_shape=[1,1]>(r) }"
    )
    fixed, fixes = mend(model, CARD)
    assert fixed.opset_import[0].version == wanted
    assert [item.check for item in fixes] == ["model.opset"] * (opset != wanted)
    assert not errors_of(fixed)
    np.testing.assert_array_equal(run(fixed, x), run(model, x))


def test_an_opset_that_cannot_be_converted_is_left_and_told(parse_graph):
    model = parse_graph(
        '<ir_version: 8, opset_import: ["" : 11, "com.microsoft" : 1]> '
        "g (float[N,4] x) => (float[N,4] y) { z = com.microsoft.Gelu(x) y = Relu(z) }",
        check=False,
    )
    fixed, _ = mend(model, CARD)
    assert errors_of(fixed)["model.opset"] == (fixed.opset_import[0].version < 13)


def test_an_opset_is_left_where_the_older_one_lacks_the_types(parse_graph):
    model = parse_graph(
        """<ir_version: 9, opset_import: ["" : 19]> g (float16[N,4] x) => (float16[N,4] y)
        <float16 s = {5145}, int8 z = {0}>
        { q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z) y = Relu(d) }"""
    )
    fixed, fixes = mend(model, load_card("jetson-xavier"))
    assert fixed.opset_import[0].version == 19
    assert [item.check for item in fixes] == ["model.ir-version"]


def test_an_ir_version_above_the_targets_is_lowered(parse_graph):
    model = parse_graph("g (float[N,4] x) => (float[N,4] y) { y = Relu(x) }")
    model.ir_version = 12
    fixed, (fix,) = mend(model, CARD)
    assert (fix.check, fixed.ir_version) == ("model.ir-version", CARD.ir_max)


def test_packed_weights_are_read_and_checked(tmp_path, parse_graph):
    model = parse_graph(
        """<ir_version: 10, opset_import: ["" : 21]> g (float[N,256] f) => (float[N,8] y)
        <int4[256,8] m, float[4,8] sm, int4[4,8] zm>
        { md = DequantizeLinear<axis=0, block_size=64>(m, sm, zm) y = MatMul(f, md) }""",
        sm=np.full((4, 8), 0.1, np.float32),
        zm=numpy_helper.to_array(onnx.helper.make_tensor("z", onnx.TensorProto.INT4, [4, 8], [0] * 32)),
    )  # fmt: skip
    onnx.save(model, tmp_path / "m.onnx")
    card = load_card("rtx-4090")
    found = lint(load_any_model(tmp_path / "m.onnx"), card)
    assert [item.check for item in found] == ["typing.float32-graph"]  # a warning
    older = errors_of(model, load_card("jetson-xavier"))
    assert set(older) == {"model.opset", "model.ir-version", "qdq.type"}
