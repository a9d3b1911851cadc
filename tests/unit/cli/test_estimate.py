from __future__ import annotations

import json
from pathlib import Path
from typing import Any

DIGITS = Path(__file__).parents[3] / "examples" / "digits"
MODEL = str(DIGITS / "digits_bn.onnx")
ORIN = ("--target", "jetson-orin")


def test_the_figure_is_called_an_estimate_and_has_its_terms(edgeq: Any) -> None:
    done = edgeq("estimate", MODEL, *ORIN, "--batch", "4")
    assert done.code == 0
    assert "input 4x1x16x16" in done.out
    assert "(estimate, not measured)" in done.out
    for word in ("fp16_tops", "bandwidth_gb_s", "recalled: ", "launch of a kernel", "inferred"):
        assert word in done.out


def test_two_files_have_a_ratio(edgeq: Any) -> None:
    done = edgeq("estimate", MODEL, MODEL, *ORIN)
    assert "ratio AFTER / MODEL: 1.00 (better end), 1.00 (worse end)" in done.out


def test_json_has_every_kernel_and_the_label(edgeq: Any) -> None:
    (found,) = json.loads(edgeq("estimate", MODEL, *ORIN, "--json").out)["estimates"]
    assert found["label"] == "estimate, not measured"
    assert sum(item["macs"] for item in found["regions"]) == found["macs"] > 0


def test_the_cpu_is_measured_and_not_estimated(edgeq: Any) -> None:
    done = edgeq("estimate", MODEL, "--target", "cpu")
    assert done.code == 4
    assert "bench_latency.py" in done.err


def test_an_unknown_input_ends_with_3(edgeq: Any) -> None:
    done = edgeq("estimate", MODEL, *ORIN, "--shape", "inptu:1x1x16x16")
    assert done.code == 3
    assert "did you mean input" in done.err
