"""Forms that ONNX's node tests leave out: older opsets, element types, and inputs that are computed at run time."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest

from edgeq.teacher.importer import import_teacher

F32 = np.float32


@dataclass(frozen=True)
class Form:
    name: str
    opset: int
    nodes: str
    output: str
    arrays: dict[str, np.ndarray] = field(default_factory=dict)


X = np.random.default_rng(0).normal(size=(2, 4, 6)).astype(F32)
AXES = np.array([1])

FORMS = [
    Form("softmax_over_all_axes_from_1", 11, "y = Softmax (x)", "float[2,4,6]"),
    Form("softmax_over_all_axes_from_last", 12, "y = Softmax <axis=-1> (x)", "float[2,4,6]"),
    Form("softmax_over_the_last_axis", 13, "y = Softmax (x)", "float[2,4,6]"),
    Form("log_softmax_over_all_axes_from_1", 11, "y = LogSoftmax (x)", "float[2,4,6]"),
    Form("log_softmax_over_the_last_axis", 13, "y = LogSoftmax (x)", "float[2,4,6]"),
    Form(
        "squeeze_axes_attribute",
        11,
        "u = Unsqueeze <axes=[0,-1]> (x) y = Squeeze <axes=[0,4]> (u)",
        "float[2,4,6]",
    ),
    Form(
        "squeeze_axes_input",
        13,
        "u = Unsqueeze (x, axes) y = Squeeze (u, axes)",
        "float[2,4,6]",
        {"axes": AXES},
    ),
    Form(
        "squeeze_of_every_axis",
        13,
        "u = Unsqueeze (x, axes) y = Squeeze (u)",
        "float[2,4,6]",
        {"axes": AXES},
    ),
    Form("split_sizes_attribute", 11, "a, y = Split <axis=2, split=[2,4]> (x)", "float[2,4,4]"),
    Form(
        "split_sizes_input",
        13,
        "a, y = Split <axis=2> (x, s)",
        "float[2,4,4]",
        {"s": np.array([2, 4])},
    ),
    Form("split_in_equal_parts", 13, "a, y = Split <axis=-1> (x)", "float[2,4,3]"),
    Form(
        "split_with_a_smaller_rest", 18, "a, y = Split <axis=2, num_outputs=2> (x)", "float[2,4,3]"
    ),
    Form("reduce_sum_axes_attribute", 11, "y = ReduceSum <axes=[1], keepdims=0> (x)", "float[2,6]"),
    Form("reduce_sum_axes_input", 13, "y = ReduceSum (x, axes)", "float[2,1,6]", {"axes": AXES}),
    Form("reduce_mean_axes_attribute", 17, "y = ReduceMean <axes=[1,2]> (x)", "float[2,1,1]"),
    Form("reduce_max_axes_attribute", 11, "y = ReduceMax <axes=[-1]> (x)", "float[2,4,1]"),
    Form("reduce_l2_axes_attribute", 11, "y = ReduceL2 <axes=[1]> (x)", "float[2,1,6]"),
    Form("reduce_prod_of_all", 13, "y = ReduceProd <keepdims=0> (x)", "float"),
    Form("dropout_of_opset_11", 11, "y = Dropout <ratio=0.5> (x)", "float[2,4,6]"),
    Form(
        "clip_with_one_limit", 11, "y = Clip (x, low)", "float[2,4,6]", {"low": np.array(0.1, F32)}
    ),
    Form("clip_without_limits", 11, "y = Clip (x)", "float[2,4,6]"),
    Form(
        "clip_with_limits_made_at_run_time",
        13,
        "l = ReduceMean <keepdims=0> (x) y = Clip (x, l)",
        "float[2,4,6]",
    ),
    Form(
        "pad_of_opset_11", 11, "y = Pad (x, p)", "float[2,5,8]", {"p": np.array([0, 1, 2, 0, 0, 0])}
    ),
    Form(
        "pad_that_cuts", 13, "y = Pad (x, p)", "float[2,4,5]", {"p": np.array([0, -1, 0, 0, 1, -1])}
    ),
    Form(
        "pad_of_some_axes",
        18,
        "y = Pad (x, p, , axes)",
        "float[2,5,6]",
        {"p": np.array([0, 1]), "axes": AXES},
    ),
    Form(
        "gemm_with_factors",
        13,
        "m = Flatten (x) y = Gemm <alpha=0.5, beta=2.0, transB=1> (m, m, c)",
        "float[2,2]",
        {"c": np.ones((1, 2), F32)},
    ),
    Form(
        "gemm_without_bias",
        13,
        "m = Flatten (x) y = Gemm <transB=1> (m, w)",
        "float[2,3]",
        {"w": np.ones((3, 24), F32)},
    ),
    Form(
        "gemm_with_a_scalar_bias",
        13,
        "m = Flatten (x) y = Gemm <transB=1> (m, w, c)",
        "float[2,3]",
        {"w": np.ones((3, 24), F32), "c": np.array(2, F32)},
    ),
    Form("flatten_at_a_negative_axis", 13, "y = Flatten <axis=-1> (x)", "float[8,6]"),
    Form(
        "gather_counts_back",
        13,
        "y = Gather <axis=-1> (x, i)",
        "float[2,4,2,2]",
        {"i": np.array([[-1, 0], [5, -6]])},
    ),
    Form(
        "slice_backwards_to_the_first",
        13,
        "y = Slice (x, s, e, a, t)",
        "float[2,4,3]",
        {"s": np.array([-1]), "e": np.array([-(2**63)]), "a": np.array([-1]), "t": np.array([-2])},
    ),
    Form(
        "shape_arithmetic_truncates",
        13,
        "s = Shape (x) d = Div (s, n) c = Cast <to=1> (d) y = Neg (c)",
        "float[3]",
        {"n": np.array([-3])},
    ),
    Form(
        "shape_of_some_axes", 15, "s = Shape <start=-2, end=3> (x) y = Cast <to=1> (s)", "float[2]"
    ),
    Form(
        "reshape_to_a_computed_shape",
        13,
        "s = Shape (x) b = Gather (s, first) c = Concat <axis=0> (b, rest) y = Reshape (x, c)",
        "float[2,24]",
        {"first": np.array([0]), "rest": np.array([-1])},
    ),
    Form(
        "expand_to_a_computed_shape",
        13,
        """s = Shape (x) z = ConstantOfShape <value = float[1] {3}> (s)
        m = ReduceMax <axes=[0,2]> (x) e = Expand (m, s) y = Add (z, e)""",
        "float[2,4,6]",
    ),
    Form(
        "range_of_a_computed_size",
        13,
        "n = Size (x) y = Range (zero, n, step)",
        "int64[6]",
        {"zero": np.array(0), "step": np.array(8)},
    ),
    Form(
        "cast_truncates",
        13,
        "t = Mul (x, ten) i = Cast <to=7> (t) y = Cast <to=1> (i)",
        "float[2,4,6]",
        {"ten": np.array(10, F32)},
    ),
    Form("cast_like", 15, "i = CastLike (x, s) y = CastLike (i, x)", "float[2,4,6]", {"s": AXES}),
    Form(
        "layer_norm_with_extra_outputs_unused",
        17,
        "y, m = LayerNormalization <axis=1> (x, g, g)",
        "float[2,4,6]",
        {"g": X[0]},
    ),
    Form(
        "average_pool_dilated",
        19,
        "y = AveragePool <kernel_shape=[2], dilations=[2], pads=[1,0]> (x)",
        "float[2,4,5]",
    ),
    Form(
        "tile_by_computed_repeats",
        13,
        "s = Shape (x) r = Div (s, s) y = Tile (x, r)",
        "float[2,4,6]",
    ),
]


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name)
def test_form_computes_what_onnx_runtime_computes(from_text, run_both, form):
    text = f"g (float[2,4,6] x) => ({form.output} y) {{ {form.nodes} }}"
    ours, theirs = run_both(from_text(text, opset=form.opset, **form.arrays), {"x": X})
    assert (ours[0].dtype, ours[0].shape) == (theirs[0].dtype, theirs[0].shape)
    np.testing.assert_allclose(ours[0], theirs[0], rtol=1e-5, atol=1e-6)


def test_constant_sizes_and_limits_are_written_into_the_call(from_text):
    text = """g (float[2,4] x) => (float[2,2] y) {
      r = Reshape (x, shape) c = Clip (r, low, high) y = Slice (c, start, end) }"""
    sizes = {"shape": np.array([4, -1]), "start": np.array([0]), "end": np.array([2])}
    limits = {"low": np.array(0, F32), "high": np.array(6, F32)}
    teacher = import_teacher(from_text(text, **sizes, **limits))
    written = [node.args[1:] for node in teacher.module.graph.nodes if node.op == "call_function"]
    assert written == [((4, -1),), (0.0, 6.0), ((0,), (2,))]
    assert teacher.binding == {}
