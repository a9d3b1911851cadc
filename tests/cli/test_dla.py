"""`--dla`: what a user gets, and what is refused."""

from __future__ import annotations

import json

import onnx
import pytest

from deploy.calibration_cache import load_cache


def test_a_build_for_dla_has_a_cache_for_every_tensor_of_its_float_model(
    edgeq, digits, tiny, tmp_path
):
    words = ("--target", "jetson-orin", "--dla", *tiny, "--out", tmp_path / "o")
    done = edgeq("build", digits / "digits_bn.onnx", *words)
    assert done.code == 0, done.err
    bundle = tmp_path / "o" / "bundle"
    scales = load_cache(bundle / "calibration.cache")
    graph = onnx.load(bundle / "model.dla.onnx").graph
    assert not [node for node in graph.node if "quantize" in node.op_type.lower()]
    assert set(scales) == {"input", *(name for node in graph.node for name in node.output)}
    assert "--useDLACore=0" in (bundle / "build_dla.sh").read_text()
    assert "build_dla.sh" in (bundle / "SHA256SUMS").read_text()
    results = json.loads((tmp_path / "o" / "results.json").read_text())
    assert [item["op_type"] for item in results["dla"]["on_gpu"]] == ["Flatten", "Gemm"]
    assert "note: DLA: 2 layers run on the GPU" in done.out
    again = edgeq("build", digits / "digits_bn.onnx", *words)
    assert again.ran() == []


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (("--target", "rtx-4090"), 4, "has no DLA"),
        (("--target", "cpu"), 4, "has no DLA"),
        (("--target", "jetson-orin", "--bits", "w8a4"), 3, "activations of 4 bits"),
        (("--target", "jetson-orin", "--flavour", "fp16-typed"), 4, "strong typing does not read"),
    ],
)
def test_what_dla_cannot_do_is_refused_before_any_work(edgeq, digits, tmp_path, words, code, text):
    model = digits / "digits_bn.onnx"
    done = edgeq("build", model, "--dla", *words, "--out", tmp_path / "o")
    assert done.code == code
    assert text in done.err
    assert not (tmp_path / "o").exists()


def test_explain_lists_the_layers_of_the_gpu(edgeq, digits):
    done = edgeq("explain", digits / "digits_bn.onnx", "--target", "jetson-orin", "--dla")
    assert done.code == 0, done.err
    assert "layers that DLA cannot take" in done.out
    assert "predicted kernels" not in done.out
