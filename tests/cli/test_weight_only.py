"""`edgeq weight-only`, as a user calls it: a transformer, what is refused, and where results go."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import numpy as np
import onnx
import pytest

from edgeq.cli.weight_only import METHODS
from edgeq.core.samples import SampleSet
from edgeq.quant.weight_only import Method

TARGET = ("--target", "rtx-4090")
CONVOLUTIONS = (
    """g (float[N,3,16,16] x) => (float[N,4,16,16] y) <float[4,3,1,1] w> { y = Conv(x, w) }"""
)
MATMUL_INPUT = (3, 16, 64)
MATMUL = "g (float[N,3,16,64] x) => (float[N,3,16,32] y) <float[64,32] w> { y = MatMul(x, w) }"


@pytest.fixture(scope="module")
def vit(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("vit") / "vit.onnx"
    onnx.save(importlib.import_module("nets.families").export("vit", "torchscript"), path)
    return path


@pytest.fixture
def write(parse_graph, tmp_path):
    """Return a function from graph text to the path of its file."""

    def save(text: str) -> Path:
        onnx.save(parse_graph(text), tmp_path / "m.onnx")
        return tmp_path / "m.onnx"

    return save


def test_the_command_line_offers_every_method():
    assert [method.value for method in Method] == list(METHODS)


def test_a_vision_transformer_is_packed_in_seconds(edgeq, vit, tmp_path):
    out = tmp_path / "out"
    done = edgeq("weight-only", vit, *TARGET, "--block", "32", "--out", out, "--json")
    assert done.code == 0, done.err
    results = json.loads(done.out)
    assert {path.name for path in out.iterdir()} == {"model.qdq.onnx", "results.json", "bundle"}
    assert (out / "bundle" / "build.sh").is_file()
    assert results["typing"]["flavour"] == "fp16-typed"
    assert json.loads((out / "results.json").read_text()).items() <= results.items()
    assert len(results["matrices"]) == 12  # of three blocks: qkv, projection, and two of the MLP
    assert results["size_bytes"]["after"] < 0.65 * results["size_bytes"]["before"]
    (agreement,) = results["agreement"]["outputs"]
    assert agreement["sqnr_db"] > 20
    left = {item["op_type"]: item["reason"] for item in results["left_in_float"]}
    assert "INT4 convolutions" in left["Conv"]
    assert "too small" in left["Gemm"]
    words = [item["precision"] for item in results["regions"] if "int4" in item["precision"]]
    assert len(words) == 12
    assert edgeq("lint", out / "model.qdq.onnx", *TARGET).code == 0


def test_the_same_call_gives_the_same_bytes(edgeq, write, tmp_path):
    model = write(MATMUL)
    for name in ("a", "b"):
        done = edgeq(
            "weight-only", model, *TARGET, "--method", "easyquant", "--out", tmp_path / name
        )
        assert done.code == 0, done.err
    for file in ("model.qdq.onnx", "results.json"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_a_result_is_replaced_only_when_asked_and_other_files_never(edgeq, write, tmp_path):
    words = ("weight-only", write(MATMUL), *TARGET, "--out", tmp_path / "out")
    assert edgeq(*words).code == 0
    assert edgeq(*words).code == 3
    assert edgeq(*words, "--overwrite").code == 0
    (tmp_path / "out" / "mine").write_text("")
    done = edgeq(*words, "--overwrite")
    assert done.code == 3
    assert "files that are not of this verb" in done.err


def test_a_file_is_no_folder_of_results_whatever_its_name(edgeq, write, tmp_path):
    (tmp_path / "results.json").touch()
    words = ("--out", tmp_path / "results.json", "--overwrite")
    done = edgeq("weight-only", write(MATMUL), *TARGET, *words)
    assert done.code == 3
    assert "files that are not of this verb" in done.err


def test_what_a_killed_run_leaves_is_no_file_of_others(edgeq, write, tmp_path):
    (tmp_path / "out" / ".bundle.part").mkdir(parents=True)
    (tmp_path / "out" / ".model.qdq.onnx.x1y2.part").write_bytes(b"half")
    done = edgeq("weight-only", write(MATMUL), *TARGET, "--out", tmp_path / "out")
    assert done.code == 0, done.err


def test_convolutions_are_refused_by_name_with_the_nearest_thing(edgeq, write, tmp_path):
    done = edgeq("weight-only", write(CONVOLUTIONS), *TARGET, "--out", tmp_path / "out")
    assert done.code == 4
    assert "has no INT4 convolutions" in done.err
    assert "--bits w4a8" in done.err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("target", ["jetson-nano", "jetson-xavier", "rtx-2080"])
def test_a_target_without_int4_weights_is_refused(edgeq, write, tmp_path, target):
    words = ("--target", target, "--out", tmp_path / "out")
    done = edgeq("weight-only", write(MATMUL), *words)
    assert done.code == 4
    assert f"'{target}'" in done.err
    assert "the nearest target that can" in done.err


def test_a_model_whose_matrices_do_not_fit_says_why_each(edgeq, write, tmp_path):
    model = write(MATMUL.replace("64", "48"))
    done = edgeq("weight-only", model, *TARGET, "--out", tmp_path / "out")
    assert done.code == 3
    assert "48 inputs" in done.err
    assert "--block 16" in done.err


def test_the_option_that_onnxruntime_needs_is_told(edgeq, write, tmp_path):
    words = ("--target", "cpu", "--out", tmp_path / "out")
    done = edgeq("weight-only", write(MATMUL), *words)
    assert done.code == 0, done.err
    assert "session.qdq_matmulnbits_accuracy_level=1" in done.out


def test_bits_of_a_build_point_to_this_verb(edgeq, write):
    done = edgeq("build", write(MATMUL), *TARGET, "--bits", "w4a16")
    assert done.code == 3
    assert "edgeq weight-only" in done.err


def test_a_given_sample_set_is_what_is_compared_on(build, edgeq, write, tmp_path):
    samples = build.folder / "samples"
    done = edgeq(
        "weight-only", write(MATMUL), *TARGET, "--samples", samples, "--out", tmp_path / "out"
    )
    assert done.code == 3  # pictures of another size
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"input_name": "y"}, "the model takes"),
        ({"samples": np.full((8, *MATMUL_INPUT), np.nan, np.float32)}, "has NaN or infinity"),
        ({"samples": np.zeros((0, *MATMUL_INPUT), np.float32)}, "has 0 samples"),
    ],
    ids=["name", "nan", "empty"],
)
def test_a_set_that_nothing_can_be_compared_on_is_refused_before_the_work(
    edgeq, write, tmp_path, change, told
):
    own = {"input_name": "x", "samples": np.zeros((8, *MATMUL_INPUT), np.float32)}
    SampleSet(labels=None, provenance={}, **{**own, **change}).save(tmp_path / "set")
    words = ("--samples", tmp_path / "set", "--out", tmp_path / "out")
    done = edgeq("weight-only", write(MATMUL), *TARGET, *words)
    assert done.code == 3
    assert told in done.err
    assert not (tmp_path / "out").exists()


def test_the_page_of_builds_says_that_it_shows_none_of_packed_weights(edgeq, write, tmp_path):
    done = edgeq("weight-only", write(MATMUL), *TARGET, "--out", tmp_path / "out")
    assert done.code == 0, done.err
    done = edgeq("report", tmp_path / "out", "--out", tmp_path / "page.html")
    assert done.code == 3
    assert "a result of `edgeq weight-only`" in done.err
    assert not (tmp_path / "page.html").exists()
