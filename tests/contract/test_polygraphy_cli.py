"""The real `polygraphy run` accepts a bundle: its inputs, the teacher's outputs, and the limits that it states."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

from deploy.bundle import write_bundle
from edgeq.core.samples import SampleSet
from edgeq.core.specs import GraphFlavour, InputSpec, Layout, NumberFormat, TargetCard

_NET = """
<ir_version: 8, opset_import: ["" : 17]>
g (float[N,3,6,6] x) => (float[N,4] logits) {{
  {quantize}
  c = Conv ({source}, w)
  r = Relu (c)
  p = GlobalAveragePool (r)
  logits = Flatten (p)
}}
"""
_QUANTIZE = "q = QuantizeLinear (x, scale, zero) dq = DequantizeLinear (q, scale, zero)"


def _make_model(quantize: str, source: str, output: str) -> onnx.ModelProto:
    model = parser.parse_model(_NET.format(quantize=quantize, source=source))
    model.graph.output[0].name = model.graph.node[-1].output[0] = output
    w = np.random.default_rng(0).normal(0, 0.3, (4, 3, 3, 3)).astype(np.float32)
    values = {"w": w, "scale": np.float32(0.05), "zero": np.int8(0)}
    used = {name for node in model.graph.node for name in node.input}
    model.graph.initializer.extend(
        numpy_helper.from_array(np.asarray(value), name)
        for name, value in values.items()
        if name in used
    )
    return model


@pytest.fixture(scope="module")
def build(tmp_path_factory) -> Path:
    """Return a folder with the teacher and the bundle of a CPU target."""
    return _make_build(tmp_path_factory.mktemp("build"))


def _make_build(folder: Path, output: str = "logits") -> Path:
    teacher, qdq = _make_model("", "x", output), _make_model(_QUANTIZE, "dq", output)
    onnx.save(teacher, folder / "teacher.onnx")
    x = np.random.default_rng(1).standard_normal((8, 3, 6, 6)).astype(np.float32)
    spec = InputSpec(
        name="x",
        shape=(3, 6, 6),
        batch=None,
        dtype="float32",
        layout=Layout.NCHW,
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
        low=(-3.0,),
        high=(3.0,),
    )
    card = TargetCard(
        name="cpu",
        title="CPU",
        runtime="onnxruntime",
        runtime_version="1.18",
        stack="",
        compute_capability="",
        opset_min=11,
        opset_max=20,
        ir_max=10,
        weak_typing=True,
        prequantized_weights=True,
        flavour=GraphFlavour.FP32_TYPED,
        formats=(NumberFormat.FP32, NumberFormat.INT8),
        dla_cores=0,
        dla_int8_tops=0.0,
        dla="none: made up for tests",
        memory_gb=0.0,
        bandwidth_gb_s=0.0,
        int8_tops=0.0,
        fp16_tops=0.0,
        notes=(),
        sources=(),
    )
    write_bundle(
        folder / "bundle",
        qdq_model=qdq,
        teacher_model=teacher,
        card=card,
        samples=SampleSet(input_name="x", samples=x, labels=None, provenance={}),
        inputs=[spec],
        provenance={"bits": "w32a8"},
    )
    return folder


def _polygraphy(folder: Path, model: str, *options: str) -> subprocess.CompletedProcess[str]:
    loads = ["--load-inputs", "bundle/inputs.json", "--load-outputs", "bundle/outputs.json"]
    reference = ["--onnxrt", "--graph-optimization-level", "ORT_DISABLE_ALL"]
    words = ["polygraphy", "run", model, *reference, *loads, *options]
    return _type(shlex.join(words), folder)


def _type(line: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a line as a user types it: in a shell, with the environment's scripts on PATH."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        line,
        shell=True,
        cwd=folder,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )


def _limits(folder: Path) -> list[str]:
    tolerances = json.loads((folder / "bundle/bundle.json").read_text())["tolerances"]
    return ["--rtol", "0", "--atol", *(f"{name}:{atol}" for name, atol in tolerances.items())]


def test_the_teacher_reproduces_its_saved_outputs(build):
    done = _polygraphy(build, "teacher.onnx", "--rtol", "0", "--atol", "1e-6")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "PASSED" in done.stdout


def test_the_quantized_model_is_within_the_stated_limits(build):
    done = _polygraphy(build, "bundle/model.qdq.onnx", *_limits(build))
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_comparison_fails_where_the_limits_are_too_tight(build):
    done = _polygraphy(build, "bundle/model.qdq.onnx", "--rtol", "0", "--atol", "1e-6")
    assert done.returncode != 0
    assert "FAILED" in done.stdout


def test_the_run_script_of_the_bundle_passes(build):
    done = _type("sh bundle/run.sh", build)
    assert done.returncode == 0, done.stdout + done.stderr


def test_an_output_whose_name_begins_with_a_dash_is_compared(tmp_path):
    done = _type("sh bundle/run.sh", _make_build(tmp_path, "-out"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "PASSED" in done.stdout


def test_the_command_of_the_readme_passes_as_it_stands(build):
    text = (build / "bundle" / "README.txt").read_text()
    (line,) = [line.strip() for line in text.splitlines() if line.strip().startswith("polygraphy")]
    done = _type(line, build / "bundle")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "PASSED" in done.stdout


def test_the_loader_script_gives_the_same_samples(build):
    """The teacher answers to them what the bundle says, so they are those of inputs.json."""
    line = (
        "polygraphy run teacher.onnx --onnxrt --graph-optimization-level ORT_DISABLE_ALL "
        "--data-loader-script bundle/load_inputs.py --load-outputs bundle/outputs.json --rtol 0 --atol 1e-6"
    )
    done = _type(line, build)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "PASSED" in done.stdout
