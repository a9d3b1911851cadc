"""A bundle of the tiny net, and stand-ins for TensorRT and the driver that answer as ONNX Runtime does."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fake_trt import Script, make_tensorrt
from fake_trt.cuda import FakeCuda

from deploy.board.cuda import Cuda
from deploy.board.run import RunOptions, run_bundle
from deploy.board.timing import TimingSpec
from deploy.bundle import write_bundle
from deploy.onnxrt import Session
from edgeq.core.progress import NoProgress

QUICK = TimingSpec(warm_up_ms=0, duration_s=0, iterations=4)
Device = Any


@pytest.fixture
def make_bundle(tmp_path, qdq, teacher, samples, input_spec, make_card) -> Callable[..., Path]:
    """Return a function that writes a bundle for a release of TensorRT."""

    def make(release: str = "10.3", **changes: Any) -> Path:
        folder = tmp_path / "bundle"
        options = {
            "qdq_model": qdq,
            "teacher_model": teacher,
            "card": make_card(release),
            "samples": samples,
            "inputs": [input_spec],
            "provenance": {"bits": "w8a4"},
            "count": 4,
        }
        write_bundle(folder, **{**options, **changes})
        return folder

    return make


@pytest.fixture
def script(qdq) -> Script:
    """What the stand-in does: it answers what ONNX Runtime answers for the Q/DQ model."""
    played = Script(cuda=FakeCuda(), compute=Session(qdq).run)
    played.layers = [("c1", "CaskConvolution", ["node_of_c1"], "Int8")]
    return played


@pytest.fixture
def run(script, monkeypatch) -> Callable[..., dict[str, Any]]:
    """Return a function that runs a bundle on the stand-in of a release; what is said comes into `run.said`."""

    def start(folder: Path, release: str = "10.3", **changes: Any) -> dict[str, Any]:
        monkeypatch.setitem(sys.modules, "tensorrt", make_tensorrt(release, script))
        options = {"options": RunOptions(timing=QUICK), "progress": NoProgress()}

        def open_cuda(**more: Any) -> Cuda:
            return Cuda(open_library=lambda name: script.cuda, **more)

        def probe() -> Device:
            from deploy.board.driver import probe_driver

            return probe_driver(lambda name: script.cuda)

        start.said = []
        return run_bundle(
            folder,
            **{**options, **changes},
            say=start.said.append,
            probe=probe,
            open_cuda=open_cuda,
        )

    return start
