"""A node is written in an older opset where it means the same there; ONNX Runtime sees no difference."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

from edgeq.core.errors import TargetError
from edgeq.graph.lower_opset import lower_opset

BORDER = "g (float[1,4,6,6] x) => (float[?,?,?,?] y)"
AXES = "int64[2] axes = {2, 3}"

# Opset of the file, the one below, initializers, body.
SAME = {
    "types-alone": (22, 20, "", "c = Elu (x) y = AveragePool<kernel_shape=[2,2]> (c)"),
    "dilations-of-one": (
        22,
        17,
        "",
        "y = AveragePool<kernel_shape=[2,2],dilations=[1,1]> (x)",
    ),
    "axes-of-a-mean": (20, 17, AXES, "y = ReduceMean (x, axes)"),
    "axes-of-a-constant-node": (18, 13, "", "a = Constant<value_ints=[1]> () y = ReduceMax (x, a)"),
    "all-axes": (18, 17, "", "y = ReduceL2 (x)"),
    "axes-that-stay-an-input": (21, 13, AXES, "y = ReduceSum (x, axes)"),
    "equal-parts": (18, 17, "", "a, b = Split<axis=1,num_outputs=2> (x) y = Mul (a, b)"),
    "defaults": (
        24,
        13,
        "float[4] s = {1, 1, 2, 2}",
        """h = Cast<to=1,saturate=1,round_mode="up"> (x)
        y = Resize<mode="linear",antialias=0,keep_aspect_ratio_policy="stretch"> (h, , s)""",
    ),
    "a-branch": (
        22,
        20,
        "",
        """h = ReduceMax<keepdims=0> (x) z = Constant<value_float=0.0> () t = Greater (h, z)
        y = If (t) <then_branch = a () => (float[?,?,?,?] p) { p = Softplus (x) },
                    else_branch = b () => (float[?,?,?,?] q) { q = Elu (x) }>""",
    ),
}


def make(opset: int, initializers: str, body: str, border: str = BORDER) -> onnx.ModelProto:
    return onnx.parser.parse_model(
        f'<ir_version: 10, opset_import: ["" : {opset}]> {border} <{initializers}> {{ {body} }}'
    )


def run(model: onnx.ModelProto) -> np.ndarray:
    x = np.random.default_rng(0).normal(size=(1, 4, 6, 6)).astype(np.float32)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    return session.run(None, {"x": x})[0]


@pytest.mark.parametrize("case", SAME)
def test_a_lowered_model_is_valid_and_gives_the_same(case):
    opset, version, initializers, body = SAME[case]
    model = make(opset, initializers, body)
    before = model.SerializeToString()
    result = lower_opset(model, version, reader="'x'")
    assert model.SerializeToString() == before
    assert result.changed
    assert [item.version for item in result.model.opset_import] == [version]
    onnx.checker.check_model(result.model, full_check=True)
    # Two kernels of one operator may add in another order.
    np.testing.assert_allclose(run(result.model), run(model), rtol=1e-5, atol=1e-6)
    assert f"opset {opset} was lowered to {version}" in result.findings[0]
    assert not lower_opset(result.model, version, reader="'x'").changed


def test_axes_that_nothing_reads_any_more_go_and_others_stay():
    model = make(18, AXES, "h = ReduceMax (x, axes) m = ReduceMean (x, axes) y = Add (h, m)")
    assert not lower_opset(model, 17, reader="'x'").model.graph.initializer
    shared = make(18, AXES, "h = ReduceMax (x, axes) y = Unsqueeze (h, axes)")
    assert len(lower_opset(shared, 17, reader="'x'").model.graph.initializer) == 1


REFUSED = {
    "operator": (24, 20, "", "y = Swish (x)", "Swish 'y' (opset 24 brought it in)"),
    "attribute": (
        19,
        17,
        "",
        "y = AveragePool<kernel_shape=[2,2],dilations=[2,2]> (x)",
        "its attribute dilations came later",
    ),
    "input": (
        18,
        17,
        "int64[2] p = {1,1}, int64[1] a = {1}",
        "y = Pad (x, p, , a)",
        "its input 3, 'a', came later",
    ),
    "value": (
        19,
        18,
        "int64[8] p = {0,0,1,1,0,0,1,1}",
        """y = Pad<mode="wrap"> (x, p)""",
        "its mode 'wrap' came with opset 19",
    ),
    "meaning": (
        21,
        20,
        "float[4] s, float[4] b",
        "y = GroupNormalization<num_groups=2> (x, s, b)",
        "one value a channel there, one a group below",
    ),
    "type": (
        22,
        20,
        "",
        "h = Cast<to=16> (x) e = Elu (h) y = Cast<to=1> (e)",
        "its input 'h' is tensor(bfloat16), which came later",
    ),
    "computed-axes": (
        18,
        17,
        AXES,
        "a = Neg (axes) y = ReduceMax (x, a)",
        "its axes 'a' are computed",
    ),
    "no-axes": (
        18,
        17,
        "",
        "y = ReduceMax<noop_with_empty_axes=1> (x)",
        "without axes it reduces none",
    ),
    "unequal-parts": (
        18,
        17,
        "",
        "a, b, c, d = Split<axis=2,num_outputs=4> (x) y = Mul (a, b)",
        "its 4 parts are not known to be equal",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_means_something_else_below_is_named_with_its_reason(case):
    opset, version, initializers, body, told = REFUSED[case]
    model = make(opset, initializers, body)
    for item in model.graph.initializer:
        if item.data_type == onnx.TensorProto.FLOAT:
            item.CopyFrom(numpy_helper.from_array(np.ones(4, np.float32), item.name))
    with pytest.raises(TargetError) as caught:
        lower_opset(model, version, reader="'jetson' (tensorrt 8.5)")
    assert told in caught.value.what
    assert f"the model has opset {opset}; 'jetson' (tensorrt 8.5) takes up to {version}" in (
        caught.value.what
    )
    assert f"opset {version}" in caught.value.mend


def test_every_operator_without_an_equal_form_is_told_at_once():
    model = make(24, "", "s = Swish (x) g = Gelu (s) y = Mish (g)")
    with pytest.raises(TargetError, match=r"Swish 's'.*Gelu 'g'.*Mish 'y'"):
        lower_opset(model, 17, reader="'x'")
