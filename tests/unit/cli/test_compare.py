from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

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
    first, _, row = done.out.splitlines()
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
