"""The verbs around `build`, as a user calls them."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from edgeq.core.samples import SampleSet


def test_explain_prints_tensor_grid_rule_and_reason(edgeq, digits):
    done = edgeq("explain", digits / "digits_bn.onnx", "--target", "jetson-orin")
    head, *rows = done.out.split("\n\n")[0].splitlines()
    assert head.split() == ["tensor", "grid", "rule", "reason"]
    (weight,) = [row for row in rows if row.startswith("classifier.weight ")]
    assert "int8 -127..127 per channel 0" in weight
    assert "matrix product" in weight
    assert "weight of Gemm '/classifier/Gemm'" in weight
    assert done.err == "defaults: --bits w8a8 --first-last int8\n"


def test_explain_has_the_plan_that_a_build_stores(build, edgeq, digits):
    words = ("--target", "jetson-orin", "--preset", "unit", "--json")
    done = edgeq("explain", digits / "digits_bn.onnx", *words)
    found = json.loads(done.out)
    assert found["plan"] == json.loads((build.folder / "plan.json").read_text())
    assert found["regions"] == json.loads((build.folder / "results.json").read_text())["regions"]


def test_explain_tells_the_kernels_of_a_file_that_is_quantized_already(build, edgeq):
    words = ("--target", "jetson-orin", "--json")
    done = edgeq("explain", build.folder / "model.qdq.onnx", *words)
    found = json.loads(done.out)
    assert found["plan"] is None
    assert found["regions"] == json.loads((build.folder / "regions.json").read_text())
    done = edgeq("explain", build.folder / "model.qdq.onnx", *words, "--dla")
    assert done.code == 3
    assert "--dla for a file that has Q/DQ nodes" in done.err


def test_explain_needs_no_statistics(edgeq, digits):
    done = edgeq("explain", digits / "digits_folded.onnx", "--target", "cpu")
    assert done.code == 0
    assert len(done.out.splitlines()) > 20


@pytest.mark.parametrize(("words", "substitutes"), [((), True), (("--recipe", "noise"), False)])
def test_a_folded_model_is_built_from_the_file_alone(
    edgeq, digits, tiny, tmp_path, words, substitutes
):
    words = ("--target", "cpu", *words, *tiny, "--out", tmp_path / "out")
    done = edgeq("build", digits / "digits_folded.onnx", *words)
    assert done.code == 0, done.err
    assert (tmp_path / "out" / "model.qdq.onnx").is_file()
    assert ("pass --teacher weights.pth" in done.err) is substitutes


def test_a_dry_run_names_the_recipe_that_takes_the_place(edgeq, digits, tiny, tmp_path):
    words = ("--target", "cpu", "--dry-run", *tiny, "--out", tmp_path / "out")
    done = edgeq("build", digits / "digits_folded.onnx", *words)
    assert done.code == 0, done.err
    assert "works from the file alone; trust: lower" in done.out
    assert "recipe: estimate" in done.out


def test_the_set_of_synth_is_what_compare_takes(build, edgeq, digits, tiny, tmp_path):
    model, out = digits / "digits_bn.onnx", tmp_path / "set"
    made = edgeq("synth", model, "--preset", "unit", *tiny, "--out", out)
    assert made.code == 0, made.err
    assert made.out == f"sample set: {out / 'samples'}\n"
    assert {path.name for path in out.iterdir()} == {"bn_table.json", "samples", "manifest.json"}

    quantized = build.folder / "model.qdq.onnx"
    done = edgeq("compare", model, quantized, "--samples", out / "samples", "--json")
    result = json.loads(done.out)
    assert result["samples"] == 16
    (output,) = result["outputs"]
    assert output["sqnr_db"] > 20
    assert output["cosine"] > 0.99


def test_synth_makes_the_samples_of_the_build_with_the_same_figures(
    build, edgeq, digits, tiny, tmp_path
):
    done = edgeq(
        "synth", digits / "digits_bn.onnx", "--preset", "unit", *tiny, "--out", tmp_path / "s"
    )
    assert done.code == 0, done.err
    name = "samples/samples.npy"
    assert (tmp_path / "s" / name).read_bytes() == (build.folder / name).read_bytes()


def test_compare_of_a_model_with_itself_finds_no_difference(build, edgeq, digits):
    model = digits / "digits_bn.onnx"
    done = edgeq("compare", model, model, "--samples", build.folder / "samples")
    assert "100.00 %" in done.out
    assert done.out.splitlines()[2].split()[-1] == "0"
    assert done.out.splitlines()[-1] == "no tensor is below 20 dB"


def test_compare_says_what_a_folder_without_samples_is(edgeq, digits, tmp_path):
    model = digits / "digits_bn.onnx"
    done = edgeq("compare", model, model, "--samples", tmp_path)
    assert done.code == 3
    assert "samples.json" in done.err
    assert "\n  mend: " in done.err


def test_compare_refuses_samples_of_another_shape(edgeq, digits, tmp_path):
    model = digits / "digits_bn.onnx"
    for shape in ((4, 1, 8, 8), (4, 64)):
        folder = tmp_path / str(len(shape))
        samples = np.zeros(shape, np.float32)
        found = SampleSet(input_name="input", samples=samples, labels=None, provenance={})
        folder.mkdir()
        found.save(folder)
        done = edgeq("compare", model, model, "--samples", folder)
        assert done.code == 3, done.err
        size = "x".join(map(str, shape[1:]))
        assert f"a sample has the shape {size}, and the input 'input' of a model" in done.err
        assert "\n  mend: make a set with `edgeq synth`" in done.err


@pytest.mark.parametrize(
    ("target", "told"),
    [
        ("cpu", "graph: ort-cpu, Q/DQ in UINT8 and INT8 for ONNX Runtime's CPU kernels"),
        ("jetson-orin", "graph: fp32-typed, Q/DQ in an FP32 graph"),
        ("rtx-4090", "graph: fp16-typed, Q/DQ in an FP16 graph"),
    ],
)
def test_a_dry_run_names_the_flavour_of_the_graph(edgeq, digits, tiny, tmp_path, target, told):
    words = ("--target", target, "--dry-run", *tiny, "--out", tmp_path / "out")
    done = edgeq("build", digits / "digits_bn.onnx", *words)
    assert done.code == 0, done.err
    assert told in done.out.splitlines()


DAMAGE = {"empty": b"", "a list": b"[]", "nothing": b"null", "deep": b"[" * 100_000}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_record_ends_in_one_message(build, edgeq, digits, tmp_path, damage):
    shutil.copytree(build.folder, tmp_path / "b")
    for name in ("results.json", "samples/samples.json"):
        (tmp_path / "b" / name).write_bytes(DAMAGE[damage])
    model = digits / "digits_bn.onnx"
    for words in (
        ("report", tmp_path / "b", "--out", tmp_path / "page.html"),
        ("compare", model, model, "--samples", tmp_path / "b" / "samples"),
    ):
        done = edgeq(*words)
        assert done.code == 3, done.err
        assert "\n  mend: " in done.err
    assert not (tmp_path / "page.html").exists()


@pytest.mark.parametrize("name", ["cpu", "jetson-orin", "rtx-4090"])
def test_targets_lists_each_card(edgeq, name):
    rows = [line.split()[0] for line in edgeq("targets").out.splitlines()]
    assert name in rows


def test_recipes_lists_the_default_and_the_baseline(edgeq):
    rows = [line.split()[0] for line in edgeq("recipes").out.splitlines()]
    assert {"edgeq", "noise"} <= set(rows)


def test_doctor_tells_what_is_there(edgeq):
    done = edgeq("doctor")
    assert done.code == 0
    for word in ("torch", "onnxruntime", "tensorrt"):
        assert word in done.out.lower()
