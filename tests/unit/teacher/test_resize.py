"""Resize and Upsample in every opset and coordinate mode, against ONNX Runtime."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

F32 = np.float32
SHAPE = (1, 2, 5, 7)
SCALES = ((1, 1, 2, 2), (1, 1, 0.6, 0.7), (1, 1, 1.5, 2.3), (1, 1, 0.4, 3))
SIZES = ((1, 2, 10, 3), (1, 2, 1, 1))
NEAREST = ("floor", "ceil", "round_prefer_floor", "round_prefer_ceil")
SINCE = {
    "align_corners": 11,
    "asymmetric": 11,
    "half_pixel": 11,
    "half_pixel_symmetric": 19,
    "pytorch_half_pixel": 11,
    "tf_crop_and_resize": 11,
    "tf_half_pixel_for_nn": 11,
}


@dataclass(frozen=True)
class Form:
    op_type: str
    opset: int
    attributes: dict[str, Any]
    is_scaled: bool = True

    def __str__(self):
        words = [
            self.op_type,
            self.opset,
            *self.attributes.values(),
            "" if self.is_scaled else "sizes",
        ]
        return "-".join(str(word) for word in words if word != "")


def forms():
    for mode in ("nearest", "linear"):
        yield Form("Upsample", 9, {"mode": mode})
        yield Form("Resize", 10, {"mode": mode})
    for opset in (11, 13, 18, 19):
        for coordinates, since in SINCE.items():
            if since > opset or (coordinates == "tf_half_pixel_for_nn" and opset > 11):
                continue
            for mode in ("nearest", "linear", "cubic"):
                common = {"mode": mode, "coordinate_transformation_mode": coordinates}
                yield Form("Resize", opset, common)
                yield Form("Resize", opset, common, is_scaled=False)
    for how in NEAREST:
        yield Form("Resize", 13, {"mode": "nearest", "nearest_mode": how})
    for mode in ("linear", "cubic"):
        yield Form("Resize", 18, {"mode": mode, "antialias": 1})
    yield Form("Resize", 13, {"mode": "cubic", "exclude_outside": 1, "cubic_coeff_a": -0.5})


def make_model(form, lengths):
    constants = {}
    if form.opset >= 11:
        # Outside 0..1 too: there stands extrapolation_value.
        constants["roi"] = np.array([0, 0, 0.1, -0.2, 1, 1, 0.8, 1.1], F32)
        constants["scales"] = np.array(lengths if form.is_scaled else [], F32)
    if form.is_scaled:
        constants["scales"] = np.array(lengths, F32)
    else:
        constants["sizes"] = np.array(lengths, np.int64)
    node = helper.make_node(form.op_type, ["x", *constants], ["y"], **form.attributes)
    graph = helper.make_graph(
        [node],
        "resize",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, SHAPE)],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [None] * 4)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    opsets = [helper.make_opsetid("", form.opset)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


@pytest.mark.parametrize("form", list(forms()), ids=str)
def test_resize_computes_what_onnx_runtime_computes(run_both, form):
    x = np.random.default_rng(0).normal(size=SHAPE).astype(F32)
    for lengths in SCALES if form.is_scaled else SIZES:
        if form.op_type == "Upsample" and min(lengths) < 1:
            continue
        ours, theirs = run_both(make_model(form, lengths), {"x": x})
        assert ours[0].shape == theirs[0].shape
        np.testing.assert_allclose(ours[0], theirs[0], atol=1e-5, err_msg=str(lengths))


def test_resize_keeps_the_aspect_ratio(run_both, from_text):
    for policy, shape in (("not_larger", "1,2,5,7"), ("not_smaller", "1,2,10,14")):
        text = f"""g (float[1,2,5,7] x) => (float[{shape}] y) {{
          y = Resize <axes=[2,3], keep_aspect_ratio_policy="{policy}", mode="linear"> (x, , , z) }}"""
        model = from_text(text, opset=18, z=np.array([10, 7]))
        ours, theirs = run_both(model, {"x": np.arange(70, dtype=F32).reshape(SHAPE)})
        np.testing.assert_allclose(ours[0], theirs[0], atol=1e-5)


def test_resize_to_sizes_made_at_run_time(run_both, from_text):
    text = """g (float[1,2,5,7] x, float[1,2,N,M] like) => (float[a,b,c,d] y) {
      s = Shape (like) y = Resize <mode="linear"> (x, , , s) }"""
    feed = {"x": np.arange(70, dtype=F32).reshape(SHAPE), "like": np.zeros((1, 2, 8, 9), F32)}
    ours, theirs = run_both(from_text(text, opset=13), feed)
    assert ours[0].shape == (1, 2, 8, 9)
    np.testing.assert_allclose(ours[0], theirs[0], atol=1e-5)
