"""Forms that ONNX's node tests leave out: older opsets, element types, and inputs that are computed at run time."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import onnx
import pytest
import torch

from edgeq.core.errors import ModelError
from edgeq.teacher.importer import import_teacher
from edgeq.teacher.support import REASONS

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
    Form("clip_limits_attributes", 9, "y = Clip <min=-0.5, max=0.25> (x)", "float[2,4,6]"),
    Form("clip_one_limit_attribute", 10, "y = Clip <max=0.25> (x)", "float[2,4,6]"),
    Form(
        "slice_attributes",
        9,
        "y = Slice <axes=[1,2], starts=[1,-3], ends=[9,-1]> (x)",
        "float[2,3,2]",
    ),
    Form(
        "slice_attributes_of_first_axes", 9, "y = Slice <starts=[1], ends=[2]> (x)", "float[1,4,6]"
    ),
    Form("pad_attributes", 9, "y = Pad <pads=[0,1,2,0,0,0], value=3.0> (x)", "float[2,5,8]"),
    Form(
        "pad_edge_attributes", 10, 'y = Pad <mode="edge", pads=[0,1,2,0,0,1]> (x)', "float[2,5,9]"
    ),
    Form(
        "pad_reflect",
        13,
        'y = Pad <mode="reflect"> (x, p)',
        "float[2,6,11]",
        {"p": np.array([0, 2, 2, 0, 0, 3])},
    ),
    Form(
        "pad_wrap_of_some_axes",
        19,
        'y = Pad <mode="wrap"> (x, p, , axes)',
        "float[2,7,6]",
        {"p": np.array([1, 2]), "axes": AXES},
    ),
    Form("dropout_of_opset_9", 9, "y = Dropout <ratio=0.5> (x)", "float[2,4,6]"),
    Form(
        "batch_normalization_of_opset_9",
        9,
        "y = BatchNormalization <epsilon=0.01> (x, g, b, b, g)",
        "float[2,4,6]",
        {"g": np.array([1, 2, 3, 4], F32), "b": np.array([0, 1, -1, 2], F32)},
    ),
    Form("top_k_attribute", 9, "y, i = TopK <axis=1, k=3> (x)", "float[2,3,6]"),
    Form("top_k_indices", 10, "v, y = TopK <axis=2> (x, k)", "int64[2,4,2]", {"k": np.array([2])}),
    Form(
        "top_k_smallest",
        11,
        "y, i = TopK <axis=-1, largest=0> (x, k)",
        "float[2,4,2]",
        {"k": np.array([2])},
    ),
    Form("split_of_opset_9", 9, "a, y = Split <axis=2> (x)", "float[2,4,3]"),
    Form("hardmax_over_all_axes_from_1", 11, "y = Hardmax (x)", "float[2,4,6]"),
    Form("reduce_log_sum_exp_attribute", 11, "y = ReduceLogSumExp <axes=[2]> (x)", "float[2,4,1]"),
    Form("reduce_sum_square_attribute", 9, "y = ReduceSumSquare <axes=[0,2]> (x)", "float[1,4,1]"),
    Form("reduce_l1_of_all", 9, "y = ReduceL1 <keepdims=0> (x)", "float"),
    Form("mean_of_three", 9, "y = Mean (x, x, m)", "float[2,4,6]", {"m": np.ones((4, 1), F32)}),
    Form(
        "max_of_three",
        9,
        "y = Max (x, z, m)",
        "float[2,4,6]",
        {"z": np.zeros((1,), F32), "m": np.ones((4, 1), F32) / 2},
    ),
    Form("global_lp_pool", 9, "y = GlobalLpPool <p=3> (x)", "float[2,4,1]"),
    Form(
        "lp_pool",
        11,
        "y = LpPool <kernel_shape=[3], p=3, pads=[1,1], strides=[2]> (x)",
        "float[2,4,3]",
    ),
    Form(
        "mean_variance_of_channels",
        13,
        "y = MeanVarianceNormalization <axes=[0,2]> (x)",
        "float[2,4,6]",
    ),
    Form("lp_normalization", 13, "y = LpNormalization <axis=1, p=1> (x)", "float[2,4,6]"),
    Form(
        "instance_normalization_of_one_element",
        13,
        "m = ReduceMean <axes=[2]> (x) y = InstanceNormalization <epsilon=1.0> (m, g, g)",
        "float[2,4,1]",
        {"g": np.array([1, 2, 3, 4], F32)},
    ),
    Form(
        "group_normalization_of_scales_by_group",
        18,
        "y = GroupNormalization <num_groups=2> (x, g, g)",
        "float[2,4,6]",
        {"g": np.array([1, 2], F32)},
    ),
    Form(
        "group_normalization_of_scales_by_channel",
        21,
        "y = GroupNormalization <num_groups=2> (x, g, g)",
        "float[2,4,6]",
        {"g": np.array([1, 2, 3, 4], F32)},
    ),
    Form(
        "einsum_with_dots", 13, 'y = Einsum <equation="...ij,...kj->...ik"> (x, x)', "float[2,4,4]"
    ),
    Form("einsum_of_a_diagonal_sum", 13, 'y = Einsum <equation="bij->ji"> (x)', "float[6,4]"),
    Form(
        "scatter_of_opset_9",
        9,
        "y = Scatter <axis=1> (x, i, u)",
        "float[2,4,6]",
        {"i": np.array([[[0], [3]]]), "u": np.ones((1, 2, 1), F32)},
    ),
    Form(
        "scatter_elements_adds",
        16,
        'y = ScatterElements <axis=2, reduction="add"> (x, i, u)',
        "float[2,4,6]",
        {"i": np.array([[[0, -1, 0]]]), "u": np.ones((1, 1, 3), F32)},
    ),
    Form(
        "scatter_nd_takes_the_largest",
        18,
        'y = ScatterND <reduction="max"> (x, i, u)',
        "float[2,4,6]",
        {"i": np.array([[0, 1], [-1, 1], [0, 1]]), "u": np.zeros((3, 6), F32)},
    ),
    Form(
        "gather_nd_of_batches",
        13,
        "y = GatherND <batch_dims=1> (x, i)",
        "float[2,2,6]",
        {"i": np.array([[[0], [-1]], [[2], [1]]])},
    ),
    Form(
        "gather_elements",
        13,
        "y = GatherElements <axis=2> (x, i)",
        "float[1,1,3]",
        {"i": np.array([[[5, -6, 2]]])},
    ),
    Form(
        "one_hot_of_computed_indices",
        13,
        "a = ArgMax <axis=2, keepdims=0> (x) y = OneHot <axis=1> (a, d, v)",
        "float[2,6,4]",
        {"d": np.array(6), "v": np.array([-1, 1], F32)},
    ),
    Form(
        "cumulative_sum_backwards",
        14,
        "y = CumSum <exclusive=1, reverse=1> (x, a)",
        "float[2,4,6]",
        {"a": np.array(-1)},
    ),
    Form("lower_triangle", 14, "y = Trilu <upper=0> (x, k)", "float[2,4,6]", {"k": np.array(1)}),
    Form(
        "compress_by_a_constant",
        11,
        "y = Compress <axis=1> (x, c)",
        "float[2,2,6]",
        {"c": np.array([True, False, True])},
    ),
    Form(
        "non_zero_of_a_constant",
        13,
        "i = NonZero (c) y = Gather <axis=1> (x, i)",
        "float[2,1,2,6]",
        {"c": np.array([0, 3, 0, 1], F32)},
    ),
    Form("selu", 9, "y = Selu (x)", "float[2,4,6]"),
    Form(
        "is_infinite_of_a_sign",
        10,
        "i = Log (x) z = Reciprocal (o) y = IsInf <detect_negative=0> (z)",
        "bool[2]",
        {"o": np.array([0.0, -0.0], F32)},
    ),
    Form("softmax_of_opset_24", 24, "y = Softmax (x)", "float[2,4,6]"),
    Form("swish", 24, "y = Swish <alpha=0.5> (x)", "float[2,4,6]"),
    Form(
        "rms_normalization", 23, "y = RMSNormalization <axis=1> (x, g)", "float[2,4,6]", {"g": X[0]}
    ),
    Form(
        "eye_like_of_a_computed_matrix", 9, "m = Flatten (x) y = EyeLike <k=1> (m)", "float[2,24]"
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


def test_lrn_of_an_even_size_reads_the_odd_channel_behind(from_text):
    """ONNX Runtime refuses an even size, so the standard's own sum judges."""
    text = "g (float[2,4,6] x) => (float[2,4,6] y) { y = LRN <size=4, alpha=0.5, beta=1.0> (x) }"
    ours = import_teacher(from_text(text)).module(torch.from_numpy(X))[0]
    sums = [(X[:, max(0, c - 1) : c + 3] ** 2).sum(1) for c in range(4)]
    np.testing.assert_allclose(ours.numpy(), X / (1 + 0.5 / 4 * np.stack(sums, 1)), rtol=1e-5)


def test_a_clip_between_a_number_and_a_computed_limit_has_gradients(from_text):
    text = "g (float[2,3] x) => (float[2,3] y) { h = ReduceMean <keepdims=0> (x) y = Clip (x, low, h) }"
    x = torch.tensor([[-1.0, 0.5, 3.0], [0.0, 1.0, 2.5]], requires_grad=True)
    (y,) = import_teacher(from_text(text, low=np.array(-0.5, F32))).module(x)
    assert y.tolist() == [[-0.5, 0.5, 1.0], [0.0, 1.0, 1.0]]
    y.sum().backward()
    assert x.grad[0, 1] > x.grad[0, 0] > 0  # the limit is a mean of all


def test_a_shape_that_only_the_batch_leaves_open_is_written_into_the_call(from_text):
    text = """g (float[N,4,6] x) => (float[a,b] y) {
      s = Shape (x) c = Gather (s, two) n = Unsqueeze (c, zero)
      sizes = Concat <axis=0> (rest, n) y = Reshape (x, sizes) }"""
    constants = {"two": np.array(2), "zero": np.array([0]), "rest": np.array([-1])}
    teacher = import_teacher(from_text(text, **constants))
    (call,) = [node for node in teacher.module.graph.nodes if node.op == "call_function"]
    assert call.args[1] == (-1, 6)


def test_a_batch_that_the_file_fixes_stays_open_in_shape_arithmetic(from_text):
    text = """g (float[1,4,6] x) => (float[1,24] y) {
      s = Shape (x) n = Gather (s, zero) sizes = Concat <axis=0> (n, rest) y = Reshape (x, sizes) }"""
    model = from_text(text, zero=np.array([0]), rest=np.array([-1]))
    assert import_teacher(model).module(torch.zeros(5, 4, 6))[0].shape == (5, 24)


@pytest.mark.parametrize("op_type", ["NonZero", "Compress"])
def test_a_result_whose_shape_depends_on_the_data_is_refused(from_text, op_type):
    arguments = "x" if op_type == "NonZero" else "x, b"
    text = f"g (float[4] x) => (float[?] y) {{ b = Cast <to=9> (x) y = {op_type} ({arguments}) }}"
    with pytest.raises(ModelError, match="is not constant, so the shape of its result depends"):
        import_teacher(from_text(text))


@pytest.mark.parametrize("op_type", sorted(REASONS))
def test_an_operator_refused_by_design_tells_its_reason(op_type):
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node(op_type, ["x"], ["y"])],
        "refused",
        [onnx.helper.make_tensor_value_info("x", 1, [1])],
        [onnx.helper.make_tensor_value_info("y", 1, [1])],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)])
    with pytest.raises(ModelError) as caught:
        import_teacher(model)
    assert f"{op_type} 'y': {REASONS[op_type]}" in caught.value.what
