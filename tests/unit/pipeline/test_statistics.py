"""Where the BN table of a build comes from, and that a build says so."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from safetensors.numpy import save_file

from edgeq.core.errors import CalibError, InputError
from edgeq.core.files import digest_file
from edgeq.core.recipes import load_recipe
from edgeq.core.specs import BitSpec, Effort
from edgeq.graph.view import GraphView
from edgeq.pipeline import BuildOptions, prepare, run_build
from edgeq.pipeline.statistics import find_statistics, settle_recipe

DIGITS = Path(__file__).parents[3] / "examples" / "digits"


def save_state_dict(kept: Path, out: Path) -> Path:
    """Save the named weights of a file with BatchNorm kept: what its state dict was."""
    view = GraphView(onnx.load(kept))
    shared = [node.output[0] for node in view.nodes if node.op_type == "Identity"]
    found = {name: view.constant(name) for name in [*view.initializers, *shared]}
    save_file(
        {name: np.ascontiguousarray(value) for name, value in found.items() if value is not None},
        out,
    )
    return out


@pytest.fixture
def weights(tmp_path) -> Path:
    return save_state_dict(DIGITS / "digits_bn.onnx", tmp_path / "digits.safetensors")


@pytest.fixture
def folded() -> onnx.ModelProto:
    return onnx.load(DIGITS / "digits_folded.onnx")


@pytest.fixture
def options(tmp_path) -> BuildOptions:
    """The shortest build of the folded file."""
    return BuildOptions(
        model=DIGITS / "digits_folded.onnx",
        target="cpu",
        bits=BitSpec(weights=8, activations=8),
        effort=Effort.QUICK,
        seed=0,
        out=tmp_path / "out",
        recipe="edgeq",
        preset=None,
        mean=(),
        std=(),
        bounds=(),
        shapes={},
        eval_path=None,
        settings={
            "synthesis.samples": "8",
            "synthesis.batch": "8",
            "synthesis.iterations": "2",
            "training.steps": "2",
            "training.batch": "4",
        },
        overwrite=False,
    )


def test_a_folded_file_alone_has_none(folded) -> None:
    found = find_statistics(folded, None)
    assert (found.source, found.text, found.table.entries) == ("none", "none in the file", ())


def test_the_state_dict_gives_a_folded_file_its_table(folded, weights) -> None:
    found = find_statistics(folded, weights)
    assert (found.source, len(found.table.entries), found.findings) == ("teacher", 8, ())
    assert found.text == "recovered from digits.safetensors by value, 8 of 8 layers"
    assert found.weights_digest == digest_file(weights)


def test_nodes_that_have_everything_leave_nothing_to_the_state_dict(weights) -> None:
    found = find_statistics(onnx.load(DIGITS / "digits_bn.onnx"), weights)
    assert (found.source, found.weights_digest) == ("node", None)
    assert found.text == "from the file's 8 BatchNormalization nodes"
    assert found.findings == (
        "--teacher digits.safetensors gives no more: no layer of the file is a fold of it",
    )


def test_a_state_dict_of_another_network_is_refused_beside_nodes_too(tmp_path) -> None:
    save_file(
        {"bn.running_mean": np.zeros(16), "bn.running_var": np.ones(16)}, tmp_path / "o.safetensors"
    )
    with pytest.raises(InputError, match="no layer of the model"):
        find_statistics(onnx.load(DIGITS / "digits_bn.onnx"), tmp_path / "o.safetensors")


@pytest.fixture
def partly_folded(tmp_path) -> tuple[onnx.ModelProto, Path]:
    """A BatchNorm that was folded, one that was kept before the next layer, and the state dict of both."""
    rng = np.random.default_rng(0)
    w, v = (rng.normal(size=(4, 4, 3, 3)).astype(np.float32) for _ in range(2))
    gamma, beta, mean, var = rng.uniform(0.5, 2, size=(4, 4)).astype(np.float32)
    factor = gamma / np.sqrt(var + 1e-5)
    model = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17]> g (float[N,4,8,8] x) => (float[N,4,4,4] y)
        { c = Conv (x, w, b) r = Relu (c) n = BatchNormalization (r, one, zero, zero, one) y = Conv (n, v) }"""
    )
    arrays = {"w": w * factor[:, None, None, None], "b": beta - factor * mean, "v": v}
    arrays |= {"one": np.ones(4, np.float32), "zero": np.zeros(4, np.float32)}
    for name, array in arrays.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    named = zip(
        ("weight", "bias", "running_mean", "running_var"), (gamma, beta, mean, var), strict=True
    )
    state = {f"first.{key}": value for key, value in named} | {"a.weight": w, "z.weight": v}
    save_file(state, tmp_path / "both.safetensors")
    return onnx.shape_inference.infer_shapes(model), tmp_path / "both.safetensors"


def test_kept_nodes_and_folded_layers_form_one_table(partly_folded) -> None:
    model, path = partly_folded
    found = find_statistics(model, path)
    assert [(entry.tensor, entry.source) for entry in found.table.entries] == [
        ("c", "teacher"),
        ("r", "node"),
    ]
    assert found.source == "node and teacher"
    assert found.text == (
        "from the file's 1 BatchNormalization nodes, and recovered from both.safetensors by value, 1 of 1 layers"
    )
    assert found.trust.startswith("high")
    assert found.weights_digest == digest_file(path)


def test_a_node_wins_where_both_know_a_tensor(partly_folded) -> None:
    model, path = partly_folded
    relu, norm = model.graph.node[1:3]
    norm.input[0] = "c"
    relu.input[0], relu.output[0] = "n", "m"
    model.graph.node[3].input[0] = "m"
    model.graph.node.insert(1, model.graph.node.pop(2))
    found = find_statistics(onnx.shape_inference.infer_shapes(model), path)
    assert [(entry.tensor, entry.source) for entry in found.table.entries] == [("c", "node")]


def test_few_nodes_left_are_told_with_their_share(partly_folded) -> None:
    model, _ = partly_folded
    for index in range(2):
        again = onnx.helper.make_node("Conv", ["n", "v"], [f"more{index}"])
        model.graph.node.append(again)
    found = find_statistics(model, None)
    assert found.text.endswith("1 BatchNormalization nodes, for 25 % of its 4 convolutions")
    (finding,) = found.findings
    assert "pass --teacher weights.pth" in finding


def test_a_layer_that_did_not_match_is_listed_with_the_reason(folded, weights) -> None:
    conv = next(node for node in folded.graph.node if node.op_type == "Conv")
    for item in folded.graph.initializer:
        if item.name == conv.input[2]:
            item.CopyFrom(onnx.numpy_helper.from_array(np.ones(16, np.float32), item.name))
    found = find_statistics(folded, weights)
    assert found.text.endswith("7 of 8 layers")
    (finding,) = found.findings
    assert finding.startswith(f"1 of 8 layers have no statistics: '{conv.output[0]}': it looks")


def test_a_build_depends_on_the_state_dict_and_names_it(options, weights) -> None:
    torch.set_num_threads(1)
    result = run_build(dataclasses.replace(options, teacher_weights=weights))
    results = json.loads((options.out / "results.json").read_text())
    known = results["statistics"]
    assert known["source"] == "teacher"
    assert known["text"] == "recovered from digits.safetensors by value, 8 of 8 layers"
    assert known["trust"].startswith("high")
    assert results["build"]["teacher"] == digest_file(weights)
    assert f"statistics: {known['text']}; trust: {known['trust']}" in result.summary_lines()
    table = json.loads((options.out / "bn_table.json").read_text())
    assert {entry["source"] for entry in table["entries"]} == {"teacher"}


def test_without_statistics_the_substitute_is_taken_and_told(options, caplog) -> None:
    torch.set_num_threads(1)
    result = run_build(options)
    substitute = load_recipe(options.recipe).without_statistics
    known = result.results["statistics"]
    assert known["source"] == "estimate"
    assert known["trust"].startswith("lower")
    assert known["text"] == f"none in the file; the recipe '{substitute}' works from the file alone"
    assert result.results["build"]["recipe"]["name"] == substitute
    (finding,) = [text for text in result.results["findings"] if "has no statistics" in text]
    assert "pass --teacher weights.pth" in finding
    assert finding in caplog.messages
    assert f"trust: {known['trust']}" in (options.out / "report.html").read_text("utf-8")
    table = json.loads((options.out / "bn_table.json").read_text())
    assert {entry["source"] for entry in table["entries"]} == {"estimate"}


def test_the_figures_that_were_set_hold_for_the_substitute(options) -> None:
    job = prepare(options)
    assert (job.recipe.synthesis.samples, job.recipe.training.steps) == (8, 2)


def test_a_recipe_that_needs_none_is_no_substitute(options) -> None:
    job = prepare(dataclasses.replace(options, recipe="noise"))
    assert (job.statistics.source, job.recipe.name) == ("none", "noise")
    assert job.statistics.text == "none in the file; the recipe 'noise' is the plain baseline"
    assert not any("takes the place" in text for text in job.findings)


def test_recorded_statistics_that_a_recipe_does_not_ask_for_are_not_claimed(options) -> None:
    model = DIGITS / "digits_bn.onnx"
    job = prepare(dataclasses.replace(options, model=model, recipe="estimate"))
    assert job.statistics.source == "estimate"
    assert job.statistics.text.startswith("recorded ones are not used")


def test_a_recipe_without_a_substitute_is_refused(options) -> None:
    statistics = find_statistics(onnx.load(options.model), None)
    recipe = dataclasses.replace(load_recipe("edgeq"), without_statistics="")
    with pytest.raises(CalibError) as raised:
        settle_recipe(recipe, statistics, {})
    assert "--teacher weights.pth" in raised.value.mend
    assert "leave --recipe out" in raised.value.mend


def test_a_state_dict_of_another_network_stops_the_build(options, tmp_path) -> None:
    other = tmp_path / "other.pth"
    torch.save(torch.nn.BatchNorm2d(16).state_dict(), other)
    with pytest.raises(InputError, match="no layer of the model"):
        prepare(dataclasses.replace(options, teacher_weights=other))


def test_the_real_resnet20_is_prepared_from_its_folded_file(options, tmp_path) -> None:
    folder = os.environ.get("EDGEQ_FIXTURES")
    if folder is None:
        pytest.skip("EDGEQ_FIXTURES, the folder of the real files, is not set")
    files = Path(folder) / "cifar10"
    weights = save_state_dict(files / "resnet20_bn.onnx", tmp_path / "r20.safetensors")
    job = prepare(
        dataclasses.replace(
            options,
            model=files / "resnet20_folded.onnx",
            teacher_weights=weights,
            preset="cifar10",
        )
    )
    assert job.statistics.text == "recovered from r20.safetensors by value, 19 of 19 layers"
    assert {entry.tensor for entry in job.statistics.table.entries} <= set(job.teacher.fx_node_of)
