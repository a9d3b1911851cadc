"""Strides, dilations, uneven padding, auto_pad and ceil_mode in one to three dimensions, against ONNX Runtime."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

ROUNDS = 40
CONVOLUTIONS = {"Conv", "ConvTranspose"}


def attributes(op_type, generator):
    """Return random legal attributes and the number of spatial axes.

    Left out is SAME padding where ONNX Runtime departs from the standard or refuses: with dilations, and with a kernel
    smaller than the stride (but for Conv).
    """
    ndim = int(generator.integers(1, 4))
    kernel = generator.integers(1, 4, ndim)
    values = {
        "kernel_shape": kernel,
        "strides": generator.integers(1, 4, ndim),
        "dilations": generator.integers(1, 3, ndim),
    }
    if generator.random() < 0.4:
        values["auto_pad"] = str(generator.choice(["SAME_UPPER", "SAME_LOWER", "VALID"]))
        if values["auto_pad"] != "VALID":
            values["dilations"] = np.ones(ndim, int)
            if op_type != "Conv":
                values["strides"] = np.minimum(values["strides"], kernel)
    else:
        before = generator.integers(0, kernel)
        behind = before if generator.random() < 0.5 else generator.integers(0, kernel)
        values["pads"] = np.concatenate([before, behind])
    if op_type in CONVOLUTIONS:
        values["group"] = int(generator.choice([1, 2]))
    else:
        values["ceil_mode"] = int(generator.integers(0, 2)) if "pads" in values else 0
    if op_type == "AveragePool":
        values["count_include_pad"] = int(generator.integers(0, 2))
    if op_type == "ConvTranspose" and "pads" in values:
        values["output_padding"] = generator.integers(0, values["strides"])
    return values, ndim


def make_model(op_type, values, ndim, generator):
    initializers = []
    if op_type in CONVOLUTIONS:
        channels = (8, 4 // values["group"]) if op_type == "Conv" else (4, 8 // values["group"])
        shapes = [(*channels, *values["kernel_shape"]), (8,)]
        initializers = [
            onnx.numpy_helper.from_array(generator.normal(size=shape).astype(np.float32), name)
            for name, shape in zip(("w", "b"), shapes, strict=True)
        ]
    node = onnx.helper.make_node(
        op_type, ["x", *(item.name for item in initializers)], ["y"], **values
    )
    graph = onnx.helper.make_graph(
        [node],
        "window",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, (2, 4, *[9] * ndim))],
        [onnx.helper.make_empty_tensor_value_info("y")],
        initializers,
    )
    opset = onnx.helper.make_opsetid("", 19)
    return onnx.helper.make_model(graph, opset_imports=[opset], ir_version=9)


@pytest.mark.parametrize("op_type", ["Conv", "ConvTranspose", "MaxPool", "AveragePool"])
def test_random_windows_compute_what_onnx_runtime_computes(run_both, op_type):
    generator = np.random.default_rng(0)
    for _ in range(ROUNDS):
        values, ndim = attributes(op_type, generator)
        model = make_model(op_type, values, ndim, generator)
        x = generator.normal(size=(2, 4, *[9] * ndim)).astype(np.float32)
        ours, theirs = run_both(model, {"x": x})
        assert ours[0].shape == theirs[0].shape, values
        np.testing.assert_allclose(ours[0], theirs[0], rtol=1e-4, atol=1e-4, err_msg=str(values))


@pytest.mark.parametrize("auto_pad", ["NOTSET", "SAME_UPPER", "SAME_LOWER"])
def test_a_transposed_convolution_reaches_the_wanted_shape(from_text, run_both, auto_pad):
    text = f"""g (float[1,1,4,4] x) => (float[1,2,8,11] y) {{
      y = ConvTranspose <auto_pad="{auto_pad}", strides=[2,3], output_shape=[8,11]> (x, w, b) }}"""
    generator = np.random.default_rng(0)
    w = generator.normal(size=(1, 2, 3, 3)).astype(np.float32)
    x = generator.normal(size=(1, 1, 4, 4)).astype(np.float32)
    ours, theirs = run_both(from_text(text, w=w, b=np.array([1, -1], np.float32)), {"x": x})
    assert ours[0].shape == (1, 2, 8, 11)
    np.testing.assert_allclose(ours[0], theirs[0], rtol=1e-5, atol=1e-5)
