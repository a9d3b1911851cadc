"""`edgeq build` on the example network, from the command line to the files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper
from PIL import Image

from deploy.onnxrt import run_onnx

STAGES = ("synthesize", "train", "write", "verify", "evaluate", "bundle", "results", "report")
NOISE = ("--recipe", "noise")  # where the samples do not matter


def load(path: Path) -> onnx.ModelProto:
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    return model


def read(path: Path):
    return json.loads(path.read_text("utf-8"))


# What one build leaves ------------------------------------------------------------------------------------------------


def test_every_default_is_said_before_anything_else(build):
    said = build.outcome.err.splitlines()[0]
    assert said == (
        "defaults: --bits w8a8 --first-last int8 --effort standard --seed 0 --device auto "
        "--recipe edgeq"
    )


def test_every_stage_ends_with_one_line(build):
    assert tuple(build.outcome.stages()) == ("read", "prove", "statistics", "placement", *STAGES)


def test_the_proof_against_onnx_runtime_is_said_and_stored(build):
    proof = read(build.folder / "results.json")["proof"]
    assert 0 < proof["largest_abs"] <= proof["tolerance"]
    assert f"within {proof['largest_abs']:.2g}"[:-4] in build.outcome.stages()["prove"]


def test_the_summary_tells_accuracy_agreement_and_the_folder(build):
    lines = build.outcome.out.splitlines()
    assert lines[0] == "w8a8 for jetson-orin"
    assert lines[-1] == f"results: {build.folder}"
    assert [line for line in lines if line.startswith("top-1 on 360 pictures: ")]
    assert "no engine was built here; bundle/build.sh builds it on the board" in lines


def test_the_folder_holds_what_the_documents_say(build):
    names = {path.name for path in build.folder.iterdir()}
    assert names == {
        *("bn_table.json", "samples", "plan.json", "history.json", "trained.safetensors"),
        *(
            "model.qdq.onnx",
            "findings.json",
            "lint.json",
            "regions.json",
            "agreement.json",
            "codes.json",
        ),
        *(
            "evaluation.json",
            "bundle",
            "bundle.tar.zst",
            "results.json",
            "manifest.json",
            "log.jsonl",
        ),
        *("report.html", "typing.json", "half.json", "fusions.json"),
    }


def test_the_log_tells_every_stage_from_start_to_finish(build):
    records = [json.loads(line) for line in (build.folder / "log.jsonl").read_text().splitlines()]
    for event in ("start", "finish"):
        stages = [record["stage"] for record in records if record["event"] == event]
        assert stages == ["read", "prove", "statistics", "placement", *STAGES]


def test_no_file_that_leaves_the_machine_names_a_path_of_it(build, content):
    home = str(build.folder.parent).encode()
    assert [name for name, data in content(build.folder).items() if home in data] == []


def test_the_sample_set_is_legal_and_pictured_and_has_the_answers_of_the_teacher(build, digits):
    samples = np.load(build.folder / "samples" / "samples.npy")
    labels = np.load(build.folder / "samples" / "labels.npy")
    assert samples.shape == (16, 1, 16, 16)
    assert samples.dtype == np.float32
    assert samples.min() >= 0
    assert samples.max() <= 1
    (logits,) = run_onnx(digits / "digits_bn.onnx", {"input": samples}).values()
    assert labels.tolist() == logits.argmax(1).tolist()
    with Image.open(build.folder / "samples" / "preview.png") as picture:
        assert min(picture.size) >= 16


def test_accuracy_is_stored_before_and_after(build):
    evaluation = read(build.folder / "results.json")["evaluation"]
    assert evaluation["float"]["top1_pct"] > 98
    assert evaluation["quantized"]["total"] == 360


def test_the_bundle_has_the_model_that_was_verified(build):
    shipped = (build.folder / "bundle" / "model.qdq.onnx").read_bytes()
    assert shipped == (build.folder / "model.qdq.onnx").read_bytes()


# The user's graph -----------------------------------------------------------------------------------------------------


def test_what_is_not_quantized_stays_as_it_was(edgeq, digits, tiny, tmp_path):
    model = onnx.load(digits / "digits_bn.onnx")
    model.producer_name, model.producer_version, model.doc_string = "ours", "7", "a network"
    model.domain, model.model_version = "example.org", 3
    model.graph.doc_string = "a graph"
    onnx.helper.set_model_props(model, {"labels": "0,1,2", "licence": "free"})
    model.graph.input[0].doc_string = "grey"
    onnx.save(model, tmp_path / "model.onnx")
    words = (*NOISE, "--target", "cpu", *tiny, "--out", tmp_path / "out")
    assert edgeq("build", tmp_path / "model.onnx", *words).code == 0
    result = load(tmp_path / "out" / "model.qdq.onnx")

    for field in ("producer_name", "producer_version", "domain", "model_version", "doc_string"):
        assert getattr(result, field) == getattr(model, field)
    assert list(result.metadata_props) == list(model.metadata_props)
    assert list(result.opset_import) == list(model.opset_import)
    assert (result.graph.name, result.graph.doc_string) == (model.graph.name, "a graph")
    assert list(result.graph.input) == list(model.graph.input)
    assert list(result.graph.output) == list(model.graph.output)
    assert result.graph.input[0].type.tensor_type.shape.dim[0].dim_param != ""
    ours = {"QuantizeLinear", "DequantizeLinear", "Clip"}
    folded = {"BatchNormalization", "Identity"}  # here Identity only passes constants on
    kept = [(node.name, node.op_type) for node in result.graph.node if node.op_type not in ours]
    # Grey pictures get the four channels that the kernel reads.
    assert kept.pop(0) == ("input/wide", "Pad")
    layers = [(n.name, n.op_type) for n in model.graph.node if n.op_type not in folded]
    assert [item for item in kept if item[1] != "Identity"] == layers


def test_an_old_opset_is_raised_and_the_user_is_told(edgeq, parse_graph, tiny, tmp_path):
    model = parse_graph(
        """
        g (float[N,1,8,8] x) => (float[N,4] y)
        <float[4,1,3,3] w, float[4] scale, float[4] bias, float[4] mean, float[4] var>
        { c = Conv (x, w) b = BatchNormalization (c, scale, bias, mean, var)
          r = Relu (b) p = GlobalAveragePool (r) y = Flatten (p) }
        """,
        opset=12,
        var=np.ones(4, np.float32),
    )
    onnx.save(model, tmp_path / "old.onnx")
    done = edgeq(
        "build", tmp_path / "old.onnx", "--target", "cpu", *tiny, "--out", tmp_path / "out"
    )
    assert done.code == 0, done.err
    note = "opset 12 was raised to 13, which per-channel Q/DQ needs"
    assert f"note: {note}" in done.out.splitlines()
    assert read(tmp_path / "out" / "results.json")["findings"] == [note]


def test_weights_beside_the_model_give_the_same_result_as_weights_inside(
    edgeq, digits, tiny, tmp_path
):
    model = onnx.load(digits / "digits_bn.onnx")
    results = []
    for name, external in (("inside", False), ("beside", True)):
        path = tmp_path / f"{name}.onnx"
        onnx.save(model, path, save_as_external_data=external, location="weights.bin")
        words = (*NOISE, "--target", "cpu", *tiny, "--out", tmp_path / name)
        assert edgeq("build", path, *words).code == 0
        results.append((tmp_path / name / "model.qdq.onnx").read_bytes())
    assert (tmp_path / "weights.bin").stat().st_size > 10_000
    assert results[0] == results[1]


def test_a_fixed_batch_stays_fixed(edgeq, digits, tiny, tmp_path):
    model = onnx.load(digits / "digits_bn.onnx")
    for item in (*model.graph.input, *model.graph.output):
        item.type.tensor_type.shape.dim[0].dim_value = 1
    del model.graph.value_info[:]
    onnx.save(model, tmp_path / "one.onnx")
    pictures = ("--preset", "unit", "--eval", digits / "heldout.zip")
    words = (*NOISE, *pictures, "--target", "jetson-orin", *tiny, "--out", tmp_path / "out")
    done = edgeq("build", tmp_path / "one.onnx", *words)
    assert done.code == 0, done.err
    result = load(tmp_path / "out" / "model.qdq.onnx")
    assert list(result.graph.input) == list(model.graph.input)


# Bits -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", ["w4a4", "w3a3", "w2a8"])
def test_narrow_grids_travel_in_int8_and_agree_within_one_code(edgeq, digits, tiny, tmp_path, bits):
    words = ("--target", "jetson-orin", "--preset", "unit", "--bits", bits, *NOISE, *tiny)
    done = edgeq(
        "build",
        digits / "digits_bn.onnx",
        *words,
        "--first-last",
        "same",
        "--out",
        tmp_path / "out",
    )
    assert done.code == 0, done.err
    assert read(tmp_path / "out" / "codes.json")["largest"] <= 1
    width, activation_width = int(bits[1]), int(bits[3])
    model = load(tmp_path / "out" / "model.qdq.onnx")
    weights = [numpy_helper.to_array(item) for item in model.graph.initializer]
    codes = [array for array in weights if array.dtype == np.int8 and array.ndim > 1]
    assert len(codes) == 9
    assert min(int(array.min()) for array in codes) == -(2 ** (width - 1))
    assert max(int(array.max()) for array in codes) == 2 ** (width - 1) - 1
    assert _widest_activation(model) <= 2**activation_width


def _widest_activation(model: onnx.ModelProto) -> int:
    """Return how many codes lie between the lowest and the highest of an activation, on random pictures.

    The network input is left out: pictures have 8 bits, whatever the layers have.
    """
    quantizers = [node for node in model.graph.node if node.op_type == "QuantizeLinear"]
    names = [n.output[0] for n in quantizers if n.input[0] != model.graph.input[0].name]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    x = np.random.default_rng(0).random((8, 1, 16, 16), np.float32)
    found = session.run(names, {session.get_inputs()[0].name: x})
    assert {y.dtype for y in found} == {np.dtype(np.int8)}
    return max(int(y.max()) - int(y.min()) + 1 for y in found)


def test_the_first_and_the_last_layer_have_eight_bits_unless_asked(edgeq, digits):
    words = (digits / "digits_bn.onnx", "--target", "cpu", "--bits", "w4a4", "--json")
    grids = {}
    for same in ("int8", "same"):
        plan = json.loads(edgeq("explain", *words, "--first-last", same).out)["plan"]
        weights = [item for item in plan["decisions"] if item["role"] == "weight" and item["grid"]]
        grids[same] = [item["grid"]["bits"] for item in weights]
    assert grids == {"int8": [8, *[4] * 7, 8], "same": [4] * 9}


# The same again -------------------------------------------------------------------------------------------------------


def test_the_same_words_give_the_same_bytes_in_another_folder(
    build, edgeq_process, content, tmp_path
):
    done = edgeq_process(*build.words, "--out", tmp_path / "again")
    assert done.code == 0, done.err
    first, second = content(build.folder), content(tmp_path / "again")
    assert set(first) == set(second)
    assert [name for name in first if first[name] != second[name]] == []


def test_another_seed_gives_another_model(build, edgeq, content, tmp_path):
    assert edgeq(*build.words, "--seed", "1", "--out", tmp_path / "other").code == 0
    first, second = content(build.folder), content(tmp_path / "other")
    for name in ("samples/samples.npy", "trained.safetensors", "model.qdq.onnx"):
        assert first[name] != second[name]


def test_the_name_of_the_folder_is_made_from_model_and_target(
    edgeq, digits, tiny, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    done = edgeq("build", digits / "digits_bn.onnx", "--target", "cpu", *NOISE, *tiny)
    assert done.code == 0, done.err
    assert done.out.splitlines()[-1] == "results: digits_bn.cpu"
    assert (tmp_path / "digits_bn.cpu" / "model.qdq.onnx").is_file()
    assert done.out.splitlines()[-2].startswith("bundle/run.sh ")


# Other forms of the answer --------------------------------------------------------------------------------------------


def test_json_is_one_document_and_nothing_else(finished, edgeq):
    done = edgeq(*finished.words, "--out", finished.folder, "--json")
    result = json.loads(done.out)
    assert result["folder"] == str(finished.folder)
    assert result["codes"]["largest"] <= 1
    assert set(result["seconds"]) == set(STAGES)


def test_a_dry_run_prints_the_plan_with_time_and_memory_and_writes_nothing(
    build, edgeq, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    done = edgeq(*build.words, "--dry-run")
    assert done.code == 0, done.err
    lines = dict(line.split(": ", 1) for line in done.out.splitlines())
    assert lines["train"].startswith("4 steps of 8: about ")
    assert lines["synthesize"].startswith("16 samples, 3 iterations each: about ")
    assert float(lines["memory"].split()[1]) > 50
    assert lines["folder"] == "digits_bn.jetson-orin"
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_has_a_json_form(build, edgeq, tmp_path):
    done = edgeq(*build.words, "--dry-run", "--json", "--out", tmp_path / "out")
    plan = json.loads(done.out)
    assert plan["expected"]["memory_mb"] > 50
    assert plan["expected"]["gpu_memory_mb"] == 0
    assert 0 < plan["expected"]["synthesis_s"] < 60
    assert list(tmp_path.iterdir()) == []
