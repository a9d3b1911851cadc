"""Two GPUs under torchrun: the samples of one, within rounding, and a build that ends well."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(torch.cuda.device_count() < 2, reason="torch sees no two CUDA devices"),
]

DIGITS = Path(__file__).parents[2] / "examples" / "digits" / "digits_bn.onnx"
FIGURES = {
    "synthesis.samples": 32,
    "synthesis.batch": 16,
    "synthesis.iterations": 6,
    "training.steps": 6,
    "training.batch": 16,
    "training.range_samples": 32,
}


def test_two_gpus_make_the_samples_of_one(tmp_path):
    words = ["-m", "edgeq", "build", str(DIGITS), "--target", "cpu", "--preset", "unit"]
    words += [word for key, value in FIGURES.items() for word in ("--set", f"{key}={value}")]
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    samples = []
    for name, start in (("one", []), ("two", launch)):
        out = tmp_path / name
        command = [sys.executable, *start, *words, "--device", "cuda", "--out", str(out)]
        subprocess.run(command, check=True)
        samples.append(np.load(out / "samples" / "samples.npy"))
    np.testing.assert_allclose(*samples, atol=0.02)
