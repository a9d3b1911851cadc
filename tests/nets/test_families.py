"""Each family goes from both of PyTorch's exporters through a whole build, and none is known to edgeq by name.

The build itself proves the teacher equal to ONNX Runtime, and fails where the lint finds an error or the student's
codes are farther than one from ONNX Runtime's.
"""

from __future__ import annotations

import dataclasses
from collections import Counter

import onnx
import onnxruntime
import pytest
import torch
from nets.exporters import export_dynamo, export_torchscript
from nets.families import EXPORTERS, FAMILIES, export, make_net
from onnx import numpy_helper
from safetensors.torch import save_file
from torch import nn

from deploy.cards import load_card
from edgeq.core.files import read_json
from edgeq.core.recipes import DEFAULT_RECIPE
from edgeq.core.specs import BitSpec, Effort
from edgeq.graph.batchnorm import read_bn_table
from edgeq.graph.lint import Severity, lint
from edgeq.pipeline import BuildOptions, prepare, run_build
from edgeq.teacher.recovery import recover_bn_table

# Enough to run every stage, and no more.
FIGURES = {
    "synthesis.samples": "16",
    "synthesis.leaves_per_sample": "0",
    "synthesis.batch": "8",
    "synthesis.iterations": "3",
    "training.steps": "4",
    "training.batch": "8",
    "training.range_samples": "16",
}
# One quantizer of 8 bits leaves about 40 dB; the errors of the 53 in the deepest of these nets add up to 17 dB less,
# and weights that no training ever made robust may amplify them by another 8 dB.
FLOOR_DB = 15.0
BATCHNORMS = (nn.BatchNorm1d, nn.BatchNorm2d)
WEIGHTED = (nn.Conv1d, nn.Conv2d, nn.ConvTranspose2d, nn.Linear)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def make_options(model: onnx.ModelProto, folder, **words) -> BuildOptions:
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    fields = {
        "target": "jetson-orin",
        "bits": BitSpec.parse("w8a8"),
        "effort": Effort.QUICK,
        "seed": 0,
        "preset": None,
        "mean": (),
        "std": (),
        "bounds": (),
        "shapes": {},
        "eval_path": None,
        "settings": FIGURES,
        "overwrite": False,
    }
    return BuildOptions(model=path, out=folder / "out", **(fields | words))


@pytest.mark.parametrize("exporter", EXPORTERS)
@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_is_built_from_file_to_file(name, exporter, tmp_path):
    family, model = FAMILIES[name], export(name, exporter)
    results = run_build(make_options(model, tmp_path, recipe=DEFAULT_RECIPE)).results
    has_batchnorm = any(node.op_type == "BatchNormalization" for node in model.graph.node)
    assert results["statistics"]["source"] == ("node" if has_batchnorm else "estimate")
    outputs = {item["tensor"]: item["sqnr_db"] for item in results["agreement"]["outputs"]}
    assert tuple(outputs) == family.outputs
    assert min(outputs.values()) > FLOOR_DB
    assert results["codes"]["largest"] <= 1

    built = onnx.load(tmp_path / "out" / "model.qdq.onnx")
    onnx.checker.check_model(built, full_check=True)
    assert list(built.graph.input) == list(model.graph.input)
    assert list(built.graph.output) == list(model.graph.output)
    for target in ("jetson-orin", "cpu"):
        errors = [f for f in lint(built, load_card(target)) if f.severity is Severity.ERROR]
        assert errors == []
    # Every layer with weights is quantized, whatever the exporter made of it.
    codes = [numpy_helper.to_array(item) for item in built.graph.initializer]
    weights = [array for array in codes if array.dtype == "int8" and array.ndim > 1]
    assert len(weights) == sum(isinstance(item, WEIGHTED) for item in make_net(name).modules())


@pytest.mark.parametrize("name", ["resnet", "shufflenet_v2", "yolo", "mobilevit"])
def test_computed_reshapes_of_an_old_opset_are_built(name, tmp_path):
    family = FAMILIES[name]
    model = export_torchscript(
        make_net(name),
        opset=11,
        keeps_batchnorm=False,
        inputs=family.inputs,
        outputs=family.outputs,
    )
    results = run_build(make_options(model, tmp_path, recipe=DEFAULT_RECIPE)).results
    assert min(item["sqnr_db"] for item in results["agreement"]["outputs"]) > FLOOR_DB
    assert "opset 11 was raised to 13, which per-channel Q/DQ needs" in results["findings"]


@pytest.mark.parametrize(
    # ds_cnn computes the axes of its mean; shufflenet and yolo split into sequences
    "name",
    ["ds_cnn", "resnet", "shufflenet_v2", "unet", "yolo"],
)
def test_the_default_exporter_keeps_batchnorm_if_it_may_not_optimise(name, tmp_path):
    family = FAMILIES[name]
    model = export_dynamo(
        make_net(name), optimize=False, inputs=family.inputs, outputs=family.outputs
    )
    results = run_build(make_options(model, tmp_path, recipe="edgeq")).results
    assert min(item["sqnr_db"] for item in results["agreement"]["outputs"]) > FLOOR_DB
    assert not any("cannot be folded" in text for text in results["findings"])


@pytest.mark.parametrize("name", ["resnet", "yolo", "vit"])
def test_a_built_file_runs_at_any_batch_size_with_every_optimisation(name, tmp_path):
    model = export(name, "dynamo")
    run_build(make_options(model, tmp_path, recipe=DEFAULT_RECIPE, target="cpu"))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    session = onnxruntime.InferenceSession(tmp_path / "out" / "model.qdq.onnx", options)
    (shape,) = FAMILIES[name].inputs.values()
    for batch in (1, 3):
        for output in session.run(None, {"input": torch.zeros(batch, *shape).numpy()}):
            assert len(output) == batch


@pytest.mark.parametrize("name", sorted(FAMILIES.keys() - {"convnext", "super_resolution", "vit"}))
def test_every_batchnorm_that_the_exporter_folded_is_recovered_from_the_state_dict(name):
    net = make_net(name)
    count = sum(isinstance(item, BATCHNORMS) for item in net.modules())
    model = onnx.shape_inference.infer_shapes(export(name, "dynamo"))
    kept = len(read_bn_table(model).entries)
    found = recover_bn_table(model, {key: value.numpy() for key, value in net.state_dict().items()})
    assert found.failed == ()
    assert len(found.matched) == count - kept
    assert kept == {"densenet": 7}.get(name, 0)  # behind a Concat there is nothing to fold into


def test_kept_nodes_and_recovered_layers_are_built_from_together(tmp_path):
    net = make_net("densenet")
    save_file(net.state_dict(), tmp_path / "densenet.safetensors")
    options = make_options(export("densenet", "dynamo"), tmp_path, recipe=DEFAULT_RECIPE)
    results = run_build(
        dataclasses.replace(options, teacher_weights=tmp_path / "densenet.safetensors")
    ).results
    assert results["statistics"]["source"] == "node and teacher"
    assert results["statistics"]["text"].startswith(
        "from the file's 7 BatchNormalization nodes, and"
    )
    table = read_json(tmp_path / "out" / "bn_table.json")
    assert Counter(entry["source"] for entry in table["entries"])["node"] == 7
    assert len(table["entries"]) == sum(isinstance(item, BATCHNORMS) for item in net.modules())


def test_many_nodes_that_cannot_be_folded_are_one_finding(tmp_path):
    job = prepare(make_options(export("densenet", "torchscript"), tmp_path, recipe=DEFAULT_RECIPE))
    (told,) = (text for text in job.findings if "BatchNormalization" in text)
    assert told.startswith("7 BatchNormalizations cannot be folded")
    assert told.endswith("'/first.0/Concat_output_0' is the output of Concat")
