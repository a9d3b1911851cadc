"""A build of two processes under torchrun, joined by gloo on the CPU: one voice, the same samples, near values."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from edgeq.quant.storage import load_values

PROGRAM = Path(__file__).parent / "faulty_rank.py"
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")

pytestmark = pytest.mark.slow


def torchrun(*words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*TORCHRUN, *map(str, words)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


def finished(folder: Path) -> list[str]:
    return list(json.loads((folder / "manifest.json").read_text())["stages"])


@pytest.fixture(scope="module")
def killed(build, tmp_path_factory) -> tuple[subprocess.CompletedProcess[str], Path]:
    """Return a run whose second process was killed in training, and its folder."""
    folder = tmp_path_factory.mktemp("ranks") / "out"
    return torchrun(PROGRAM, "killed", *build.words, "--out", folder), folder


@pytest.fixture(scope="module")
def resumed(build, killed) -> tuple[subprocess.CompletedProcess[str], Path]:
    """Return the same command once more, let run, and its folder."""
    _, folder = killed
    before = finished(folder)
    done = torchrun("-m", "edgeq", *build.words, "--out", folder)
    assert before == ["synthesize"]
    return done, folder


def test_a_killed_process_ends_the_run_and_torchrun_says_which(killed):
    done, folder = killed
    assert done.returncode == 1
    assert "Signal 9 (SIGKILL)" in done.stderr
    assert "internal error" not in done.stderr
    assert finished(folder) == ["synthesize"]


def test_the_same_command_goes_on_and_says_everything_once(resumed):
    done, _ = resumed
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("finished in an earlier run; kept") == 1
    assert done.stderr.count("\ntrain  ") >= 1
    assert done.stdout.count("top-1 on 360 pictures") == 1
    assert done.stderr.count("defaults:") == 1
    assert "distributed_backend" not in done.stderr


def test_the_samples_are_those_of_one_process(resumed, build):
    _, folder = resumed
    for name in ("samples.npy", "labels.npy", "history.json"):
        path = Path("samples") / name
        assert (folder / path).read_bytes() == (build.folder / path).read_bytes()


def test_the_values_are_near_to_those_of_one_process(resumed, build):
    _, folder = resumed
    rows, expected = (json.loads((f / "history.json").read_text()) for f in (folder, build.folder))
    # Where a gradient is about 0, Adam follows the rounding of its sum; from then on the two go their own ways.
    for row, first in zip(rows[:2], expected[:2], strict=True):
        assert row == pytest.approx(first, rel=1e-3, abs=1e-6)
    found, wanted = (load_values(f / "trained.safetensors") for f in (folder, build.folder))
    for name, scale in wanted.scales.items():
        np.testing.assert_allclose(found.scales[name], scale, rtol=1e-2)
    for name, codes in wanted.codes.items():
        assert np.abs(found.codes[name].astype(int) - codes).max() <= 1


def test_the_number_of_processes_belongs_to_the_build(resumed, edgeq, build):
    _, folder = resumed
    done = edgeq(*build.words, "--out", folder)
    assert done.code == 3
    assert "it was made from another machine" in done.err


def test_the_reason_of_a_process_that_fails_is_said(build, tmp_path):
    done = torchrun(PROGRAM, "raises", *build.words, "--out", tmp_path / "out")
    assert done.returncode == 1
    assert "rank 1: " in done.stderr
    assert "error: a cosmic ray" in done.stderr
    assert "a cosmic ray" in done.stderr.partition("Root Cause")[2]
    assert "Traceback" not in done.stderr.partition("Root Cause")[2]
    assert "exitcode  : 6" in done.stderr
