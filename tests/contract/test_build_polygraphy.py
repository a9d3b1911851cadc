"""The real `polygraphy run` on a real build: teacher and Q/DQ model under ONNX Runtime, data loaded from the bundle."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from edgeq.cli.options import make_options
from edgeq.pipeline import run_build

DIGITS = Path(__file__).parents[2] / "examples" / "digits"
# The console script that pip put beside the interpreter, as a user calls it.
POLYGRAPHY = Path(sys.executable).with_name("polygraphy")


@pytest.fixture(scope="module")
def build(tmp_path_factory) -> Path:
    """Return the folder of a small build for the CPU, made as a program would make it."""
    figures = ("samples=16", "batch=16", "iterations=2", "slack_quantile=0")
    options = make_options(
        DIGITS / "digits_bn.onnx",
        out=tmp_path_factory.mktemp("polygraphy") / "out",
        preset="unit",
        settings=[*(f"synthesis.{item}" for item in figures), "training.steps=2"],
    )
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return run_build(options).folder
    finally:
        torch.set_num_threads(threads)


def polygraphy(folder: Path, model: Path, *limits: str) -> subprocess.CompletedProcess[str]:
    """Run `model` on the bundle's inputs and compare with the outputs that the teacher gave."""
    bundle = folder / "bundle"
    data = ("--load-inputs", bundle / "inputs.json", "--load-outputs", bundle / "outputs.json")
    runner = ("--onnxrt", "--graph-optimization-level", "ORT_DISABLE_ALL")
    words = [POLYGRAPHY, "run", model, *runner, *data, *limits]
    return subprocess.run(
        list(map(str, words)), capture_output=True, text=True, check=False, cwd=folder
    )


def test_the_teacher_reproduces_the_outputs_of_the_bundle(build):
    done = polygraphy(build, DIGITS / "digits_bn.onnx", "--rtol", "0", "--atol", "1e-5")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "PASSED" in done.stdout
    assert "'logits'" in done.stdout


def test_the_quantized_model_is_within_the_limits_of_the_bundle(build):
    record = json.loads((build / "bundle" / "bundle.json").read_text())
    limits = [f"{name}:{atol}" for name, atol in record["tolerances"].items()]
    done = polygraphy(build, build / "model.qdq.onnx", "--rtol", "0", "--atol", *limits)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "PASSED" in done.stdout


def test_the_quantized_model_is_not_the_teacher(build):
    done = polygraphy(build, build / "model.qdq.onnx", "--rtol", "0", "--atol", "1e-5")
    assert done.returncode != 0
    assert "FAILED" in done.stdout


def test_the_run_script_and_the_checksums_of_the_bundle_hold(build):
    bundle = build / "bundle"
    for words in (["sha256sum", "--check", "SHA256SUMS"], ["sh", "run.sh"]):
        done = subprocess.run(
            words,
            cwd=bundle,
            env={**os.environ, "PATH": f"{POLYGRAPHY.parent}{os.pathsep}{os.environ['PATH']}"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
