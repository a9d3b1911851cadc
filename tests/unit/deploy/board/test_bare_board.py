"""A bundle in a bare virtual environment that has numpy alone: build.sh as on a board, with a stand-in for TensorRT.

The environment's `sitecustomize` gives ctypes a stand-in for libcuda; the package `tensorrt` is made from the lists of
real names. The engine answers what ONNX Runtime answered here, or something else.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import venv
from pathlib import Path

import numpy as np
import pytest
from fake_trt import read_tensors
from fake_trt.sshd import run_sshd

from deploy.board.samples import read_inputs
from deploy.deployment import deploy_bundle
from deploy.onnxrt import Session

TESTS = Path(__file__).parents[3]

SITE = """
import ctypes, sys
sys.path.append({tests!r})
from fake_trt.cuda import FakeCuda
driver, real = FakeCuda(), ctypes.CDLL
ctypes.CDLL = lambda name, *more, **words: driver if name == "libcuda.so.1" else real(name, *more, **words)
"""
TENSORRT = """
import json, sys, sitecustomize
from pathlib import Path
import numpy as np
from fake_trt import Script, make_tensorrt
folder = Path(__file__).parent
calls = [dict(np.load(path)) for path in sorted(folder.glob("call*.npz"))]
def compute(feed):
    for call in calls:
        if all(np.array_equal(call["in." + name], values) for name, values in feed.items()):
            return {name[4:]: values for name, values in call.items() if name.startswith("out.")}
    raise SystemExit("the engine was called with something else than a sample")
tensors = [tuple(row) for row in json.loads((folder / "tensors.json").read_text())]
script = Script(reads=False, tensors=tensors, compute=compute, cuda=sitecustomize.driver)
sys.modules["tensorrt"] = make_tensorrt("10.3", script)
"""


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the environment: the interpreter, numpy and nothing else."""
    folder = tmp_path_factory.mktemp("board")
    venv.create(folder, with_pip=False, symlinks=True)
    (site,) = folder.glob("lib/python*/site-packages")
    numpy = Path(importlib.util.find_spec("numpy").origin).parent
    for part in (numpy, numpy.with_name("numpy.libs")):
        if part.exists():
            (site / part.name).symlink_to(part)
    (site / "sitecustomize.py").write_text(SITE.format(tests=str(TESTS)))
    return folder


@pytest.fixture
def equip(board, make_bundle, qdq):
    """Return a function that makes a bundle and an engine that answers as ONNX Runtime does, or off by `offset`."""

    def make(offset: float = 0.0) -> Path:
        folder = make_bundle(qdq_model=qdq)
        (site,) = board.glob("lib/python*/site-packages")
        package = site / "tensorrt"
        package.mkdir(exist_ok=True)
        (package / "__init__.py").write_text(TENSORRT)
        rows = read_tensors(str(folder / "model.qdq.onnx"))
        (package / "tensors.json").write_text(json.dumps(rows))
        student = Session(qdq)
        for index, call in enumerate(read_inputs(folder / "inputs.json")):
            answers = {f"out.{name}": y + offset for name, y in student.run(call).items()}
            inputs = {f"in.{name}": x for name, x in call.items()}
            np.savez(package / f"call{index}.npz", **inputs, **answers)
        return folder

    return make


@pytest.fixture
def start(board, equip):
    """Return a function that runs build.sh there; `offset` spoils the engine's answers."""

    def run(*words: str, offset: float = 0.0, script: str = "build.sh"):
        folder = equip(offset)
        quick = ["--duration-s=0", "--warm-up-ms=0"] if script == "build.sh" else []
        done = subprocess.run(
            [str(folder / script), *quick, *words],
            capture_output=True,
            text=True,
            check=False,
            cwd="/",
            env={"PATH": os.environ["PATH"], "PYTHON": str(board / "bin" / "python")},
        )
        return folder, done

    return run


def test_the_environment_is_bare(board):
    names = ["onnx", "torch", "edgeq", "deploy", "onnxruntime", "polygraphy"]
    code = f"import importlib.util as u; print([n for n in {names} if u.find_spec(n)])"
    done = subprocess.run(
        [str(board / "bin/python"), "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd="/",
        env={"PATH": os.environ["PATH"]},
    )
    assert done.stdout.strip() == "[]"


def test_the_bundle_builds_runs_compares_times_and_passes(start):
    folder, done = start()
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-2:] == ["PASS", "report: device_report.json"]
    report = json.loads((folder / "device_report.json").read_text())
    assert report["passed"] is True
    assert report["timing"]["settings"]["queries"] >= 10
    assert not list(folder.rglob("__pycache__"))


def test_an_engine_with_wrong_outputs_ends_with_7(start):
    folder, done = start(offset=5.0)
    assert done.returncode == 7, done.stdout + done.stderr
    assert "FAIL: the engine's outputs are off: logits" in done.stdout
    assert json.loads((folder / "device_report.json").read_text())["passed"] is False


def test_the_help_tells_the_options(start):
    _, done = start("--help")
    assert done.returncode == 0
    assert "--trtexec-defaults" in done.stdout


def test_the_device_is_asked_what_the_documents_leave_open(start):
    folder, done = start(script="device_check.sh")
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads((folder / "device_check.json").read_text())
    assert report["tensorrt_version"] == "10.3.0"
    assert report["probes"]["opset-20"]["taken"] is True
    assert {row["fact"] for row in report["card"]} >= {"opset_max", "ir_max", "formats"}


def test_the_bundle_is_deployed_over_ssh_and_leaves_nothing(board, equip, tmp_path):
    said: list[str] = []
    (tmp_path / "sshd").mkdir()
    with run_sshd(tmp_path / "sshd", {"PYTHON": str(board / "bin" / "python")}) as server:
        done = deploy_bundle(
            equip(),
            server.access(),
            out=tmp_path / "report.json",
            folder=str(tmp_path / "on board"),
            words=["--duration-s=0", "--warm-up-ms=0"],
            is_clean=True,
            say=said.append,
        )
    assert done.passed
    assert said[-2:] == ["PASS", "report: device_report.json"]
    assert json.loads((tmp_path / "report.json").read_text())["engine"]["is_reused"] is False
    assert not (tmp_path / "on board").exists()
