from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from edgeq.core.samples import SampleSet

DIGITS = Path(__file__).parents[3] / "examples" / "digits"
BOTH = (str(DIGITS / "digits_bn.onnx"), str(DIGITS / "digits_folded.onnx"))


@pytest.fixture
def samples(tmp_path: Path) -> str:
    """Return the folder of a small sample set for the digits example."""
    x = np.random.default_rng(0).random((4, 1, 16, 16), np.float32)
    SampleSet(input_name="input", samples=x, labels=None, provenance={}).save(tmp_path / "set")
    return str(tmp_path / "set")


def test_both_exports_of_one_network_agree(edgeq: Any, samples: str) -> None:
    done = edgeq("compare", *BOTH, "--samples", samples)
    assert done.code == 0
    first, _, row, *_ = done.out.splitlines()
    assert first == "4 samples; A is the reference"
    assert row.split()[:4] == ["logits", "logits", "100.00", "%"]


def test_json_has_the_same_figures(edgeq: Any, samples: str) -> None:
    done = edgeq("compare", *BOTH, "--samples", samples, "--json")
    result = json.loads(done.out)
    assert (result["samples"], result["outputs"][0]["top1_match_ratio"]) == (4, 1.0)


def test_a_folder_without_samples_ends_with_3(edgeq: Any, tmp_path: Path) -> None:
    done = edgeq("compare", *BOTH, "--samples", str(tmp_path / "none"))
    assert done.code == 3
    assert "samples.json" in done.err


def test_a_missing_model_ends_with_3(edgeq: Any, samples: str) -> None:
    assert edgeq("compare", BOTH[0], "none.onnx", "--samples", samples).code == 3


def test_models_are_onnx_whatever_their_suffix(edgeq: Any, samples: str, tmp_path: Path) -> None:
    (tmp_path / "model.json").write_bytes(Path(BOTH[0]).read_bytes())
    assert edgeq("compare", BOTH[0], "model.json", "--samples", samples).code == 0


def test_without_inputs_random_ones_are_made_and_said(edgeq: Any) -> None:
    done = edgeq("compare", *BOTH, "--count", "3", "--seed", "5")
    assert done.code == 0
    assert "3 random inputs (seed 5), unlike any real data" in done.err
    assert done.out.startswith("3 samples; A is the reference\n")
    assert edgeq("compare", *BOTH, "--count", "3", "--seed", "5").out == done.out


def test_polygraphys_own_inputs_are_read(edgeq: Any, tmp_path: Path) -> None:
    from polygraphy.json import save_json

    rng = np.random.default_rng(1)
    feeds = [{"input": rng.random((2, 1, 16, 16), np.float32)} for _ in range(2)]
    save_json(feeds, str(tmp_path / "inputs.json"))
    done = edgeq("compare", *BOTH, "--load-inputs", "inputs.json", "--json")
    assert json.loads(done.out)["samples"] == 4


@pytest.mark.parametrize("text", ["[]", "{}", "no json", '[{"input": 1}]'])
def test_another_file_as_inputs_ends_with_3(edgeq: Any, tmp_path: Path, text: str) -> None:
    (tmp_path / "inputs.json").write_text(text)
    done = edgeq("compare", *BOTH, "--load-inputs", "inputs.json")
    assert done.code == 3
    assert "--save-inputs" in done.err


@pytest.mark.parametrize(
    ("name", "told"),
    [
        (".", "the inputs are a folder"),
        ("none.json", "there is no such file of inputs"),
        ("n" * 5000, "the inputs cannot be read: OSError"),
    ],
    ids=["folder", "missing", "long"],
)
def test_inputs_that_are_no_file_are_called_what_they_are(edgeq: Any, name: str, told: str) -> None:
    done = edgeq("compare", *BOTH, "--load-inputs", name)
    assert done.code == 3
    assert told in done.err


def test_two_sources_of_inputs_are_wrong_usage(edgeq: Any, samples: str) -> None:
    done = edgeq("compare", *BOTH, "--samples", samples, "--load-inputs", "inputs.json")
    assert done.code == 2


def test_a_limit_that_is_missed_ends_with_7_and_names_the_tensor(
    edgeq: Any, samples: str, tmp_path: Path
) -> None:
    model = onnx.load(BOTH[1])
    (weight,) = [item for item in model.graph.initializer if item.name == "classifier.weight"]
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * 2, weight.name))
    onnx.save(model, tmp_path / "broken.onnx")
    words = ("compare", BOTH[0], "broken.onnx", "--samples", samples)
    done = edgeq(*words, "--limit", "60")
    assert done.code == 7
    assert "first tensor below 60 dB: 'logits'" in done.out
    assert "made by Gemm" in done.out
    assert "--limit asks for 60 dB" in done.err
    assert edgeq(*words).code == 0
    assert edgeq("compare", *BOTH, "--samples", samples, "--limit", "60").code == 0


@pytest.mark.parametrize("limit", ["nan", "inf", "-inf"])
def test_a_limit_that_is_no_number_is_refused_before_anything_runs(
    edgeq: Any, samples: str, limit: str
) -> None:
    for form in ((), ("--json",)):
        done = edgeq("compare", *BOTH, "--samples", samples, f"--limit={limit}", *form)
        assert (done.code, done.out) == (3, "")
        assert f"error: the limit is {limit} dB" in done.err


@pytest.mark.parametrize("source", ["--samples", "--load-inputs"])
def test_an_interrupt_while_torch_is_imported_ends_the_run(
    samples: str, tmp_path: Path, source: str
) -> None:
    from polygraphy.json import save_json

    save_json([{"input": np.zeros((1, 1, 16, 16), np.float32)}], str(tmp_path / "inputs.json"))
    # A torch whose import lasts until the user interrupts it; polygraphy would swallow that and go on.
    (tmp_path / "torch.py").write_text("raise KeyboardInterrupt")
    inputs = samples if source == "--samples" else str(tmp_path / "inputs.json")
    done = subprocess.run(
        [sys.executable, "-m", "edgeq", "compare", *BOTH, source, inputs],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (130, "")
    assert done.stderr.splitlines()[-1] == "interrupted"
