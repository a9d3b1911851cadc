"""Both loops on a CUDA GPU, on the example network: what the CPU computes, within rounding; and the same every time.

The last tests need two GPUs: under torchrun they make the samples of one.
"""

from __future__ import annotations

import dataclasses
import logging
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import edgeq
from calib.synthesize import synthesize
from edgeq.quant.numbers import find_numbers
from edgeq.teacher.compute import Compute
from edgeq.teacher.replay import CudaRecorder

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        not torch.cuda.is_available(), reason="torch sees no CUDA device, or -m gpu was not given"
    ),
]

DIGITS = Path(__file__).parents[2] / "examples" / "digits" / "digits_bn.onnx"
FIGURES = {
    "synthesis.samples": 32,
    "synthesis.leaves_per_sample": 0,
    "synthesis.batch": 16,
    "synthesis.iterations": 6,
    "training.steps": 6,
    "training.batch": 16,
    "training.range_samples": 32,
}
# Convolutions multiply in TF32, whose mantissa has 10 bits; a few steps of two loops carry its rounding on.
NEAR = 0.03
RECORD = CudaRecorder.record


def prepare(device: str, recipe: str = "edgeq", **more: object) -> edgeq.Job:
    return edgeq.prepare(
        edgeq.make_options(
            DIGITS,
            target="cpu",
            bits="w4a4",
            preset="unit",
            device=device,
            recipe=recipe,
            settings=FIGURES | more,
        )
    )


def make_samples(device: str, *, half: bool) -> edgeq.SampleSet:
    job = prepare(device)
    problem = dataclasses.replace(
        job.synthesis_problem(), compute=Compute(half=half, device=job.compute.device)
    )
    with job.compute.session():
        return synthesize(problem, job.recipe.synthesis, seed=0)


def numbers(device: str, samples: edgeq.SampleSet, recipe: str = "edgeq", **more: object):
    job = prepare(device, recipe, **more)
    with job.compute.session():
        student, history = find_numbers(job.training_problem(samples), job.recipe, seed=0)
    return student.values(), history


@pytest.fixture(scope="module")
def samples() -> edgeq.SampleSet:
    return make_samples("cpu", half=False)


def require_near(found: list[dict], wanted: list[dict]) -> None:
    for row, expected in zip(found, wanted, strict=True):
        assert row == pytest.approx(expected, rel=NEAR, abs=NEAR * expected["loss"])


@pytest.mark.parametrize("half", [False, True])
def test_synthesis_moves_as_on_the_cpu(samples, half):
    found = make_samples("cuda", half=half)
    assert np.array_equal(found.labels, samples.labels)
    require_near(found.history, samples.history)


def test_samples_start_as_on_the_cpu(samples):
    job = prepare("cuda", **{"synthesis.source": "leaves"})
    wanted = prepare("cpu", **{"synthesis.source": "leaves"})
    made = [
        synthesize(item.synthesis_problem(), item.recipe.synthesis, seed=0).samples
        for item in (job, wanted)
    ]
    assert np.array_equal(*made)


def test_training_moves_as_on_the_cpu(samples):
    found, history = numbers("cuda", samples)
    wanted, expected = numbers("cpu", samples)
    require_near(history, expected)
    for name, scale in found.scales.items():
        np.testing.assert_allclose(scale, wanted.scales[name], rtol=NEAR)


def test_steps_of_training_are_replayed_as_a_cuda_graph(samples, caplog, monkeypatch):
    graphs = []
    monkeypatch.setattr(CudaRecorder, "record", lambda *args: graphs.append(args) or RECORD(*args))
    with caplog.at_level(logging.INFO, "edgeq"):
        found, history = numbers("cuda", samples)
    assert len(graphs) == 1
    assert "not replayed" not in caplog.text
    monkeypatch.setattr(Compute, "recorder", lambda _: None)
    wanted, expected = numbers("cuda", samples)
    for row, other in zip(history, expected, strict=True):
        assert row == pytest.approx(other, rel=1e-3)
    for name, scale in found.scales.items():
        np.testing.assert_allclose(scale, wanted.scales[name], rtol=1e-3)


@pytest.mark.parametrize("half", [False, True])
def test_steps_of_synthesis_are_replayed_as_a_cuda_graph(half, caplog, monkeypatch):
    graphs = []
    monkeypatch.setattr(CudaRecorder, "record", lambda *args: graphs.append(args) or RECORD(*args))
    with caplog.at_level(logging.INFO, "edgeq"):
        found = make_samples("cuda", half=half)
    assert len(graphs) == 1
    assert "not replayed" not in caplog.text
    monkeypatch.setattr(Compute, "recorder", lambda _: None)
    for row, other in zip(found.history, make_samples("cuda", half=half).history, strict=True):
        assert row == pytest.approx(other, rel=1e-3)


@pytest.mark.parametrize("recipe", ["brecq", "qdrop", "genie-m", "pd-quant", "kl", "dfq"])
def test_every_kind_of_numbers_runs(samples, recipe):
    more = {"reconstruction.iterations": 3, "reconstruction.batch": 16}
    found, history = numbers(
        "cuda", samples, recipe, **(more if recipe not in {"kl", "dfq"} else {})
    )
    assert all(np.isfinite(scale).all() for scale in found.scales.values())
    assert all(np.isfinite(row["loss"]) for row in history)


def test_the_same_seed_gives_the_same_bytes(samples):
    first, second = (make_samples("cuda", half=True) for _ in range(2))
    assert first.samples.tobytes() == second.samples.tobytes()
    one, two = (numbers("cuda", samples)[0] for _ in range(2))
    assert all(one.codes[name].tobytes() == two.codes[name].tobytes() for name in one.codes)


def test_a_build_agrees_with_onnx_runtime(tmp_path):
    done = edgeq.build(
        DIGITS, target="cpu", preset="unit", device="cuda", settings=FIGURES, out=tmp_path / "out"
    )
    assert done.results["codes"]["largest"] <= 1
    compute = done.results["build"]["machine"]["compute"]
    assert compute["device"] == torch.cuda.get_device_name(0)


def test_the_loops_are_measured():
    script = Path(__file__).parents[2] / "benchmarks" / "speed.py"
    words = ["--model", str(DIGITS), "--preset", "unit", "--rounds", "1", "--device", "cuda"]
    done = subprocess.run(
        [sys.executable, str(script), *words], check=True, capture_output=True, text=True
    )
    assert "| synthesis " in done.stdout


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="torch sees no two CUDA devices")
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
