"""A small page of a build, and what is needed to change it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edgeq.core.plan import Decision, Grid, OwnRange, QuantPlan, Role, Site
from edgeq.core.specs import TargetCard
from edgeq.report.builds import Measured
from edgeq.report.histograms import CodeCounter
from edgeq.report.page import BuildPage, Command, Setting

ACTIVATION, WEIGHT = Grid(bits=8), Grid(bits=4, narrow=True, axis=0)


@pytest.fixture
def plan() -> QuantPlan:
    """Return the placement of a convolution and a classifier; the classifier's weight stays in float."""

    def decide(tensor: str, role: Role, grid: Grid | None, node: str, index: int) -> Decision:
        op_type = "Conv" if node == "c" else "Gemm"
        return Decision(
            tensor=tensor,
            role=role,
            grid=grid,
            owner=OwnRange() if grid else None,
            sites=(Site(node=node, index=index, op_type=op_type),),
            rule="conv",
            reason=f"read by {op_type}",
        )

    return QuantPlan(
        target="board",
        bits="w4a8",
        decisions=(
            decide("x", Role.ACTIVATION, ACTIVATION, "c", 0),
            decide("w", Role.WEIGHT, WEIGHT, "c", 1),
            decide("p", Role.ACTIVATION, ACTIVATION, "y", 0),
            decide("v", Role.WEIGHT, None, "y", 1),
        ),
    )


@pytest.fixture
def results() -> dict[str, Any]:
    """Return what a build stores in results.json, as far as a report reads it."""

    def entry(tensor: str, op_type: str, sqnr_db: float) -> dict[str, Any]:
        return {"tensor": tensor, "op_type": op_type, "grid": "", "sqnr_db": sqnr_db}

    return {
        "model": "net.onnx",
        "target": "board",
        "bits": "w4a8",
        "preprocessing": "--preset unit",
        "statistics": {
            "source": "node",
            "text": "from the file's 1 BatchNormalization nodes",
            "trust": "high",
        },
        "proof": {"largest_abs": 1e-6, "tolerance": 1e-4},
        "findings": ["opset 12 was raised to 13"],
        "lint": [{"check": "tiling", "node": "c", "what": "7 channels are no multiple of 4"}],
        "agreement": {
            "samples": 16,
            "top1_match_ratio": 0.9375,
            "outputs": [entry("y", "Gemm", 21.5)],
            "layers": [entry("c", "Conv", 30.25), entry("y", "Gemm", 21.5)],
        },
        "codes": {"largest": 1},
        "regions": [
            {
                "nodes": ["c", "r"],
                "kind": "kernel",
                "ops": "Conv+Relu",
                "precision": "int8",
                "reason": "INT8 in and out",
            },
            {
                "nodes": ["q"],
                "kind": "conversion",
                "ops": "QuantizeLinear",
                "precision": "fp16",
                "reason": "alone",
            },
        ],
        "fusions": None,
        "evaluation": None,
        "size_bytes": {"before": 4000, "after": 1000},
        "build": {
            "edgeq": "0.1.0",
            "model": "5" * 64,
            "seed": 3,
            "bits": {"weights": 4, "activations": 8, "first_last_same": True},
            "recipe": {"name": "edgeq", "effort": "quick", "title": "a method"},
            "versions": {"torch": "2", "onnx": "1"},
            "machine": {"threads": 2, "cpu": "AVX2"},
        },
    }


@pytest.fixture
def fusions() -> dict[str, Any]:
    """Return what is read back from ONNX Runtime's graph of a model for it."""
    return {
        "summary": "ONNX Runtime 1 computes 2 operators on integers, 1 in float",
        "integer": {"QLinearConv": 2},
        "floats": ["Softmax 's'"],
        "sqnr_db": {"y": 60.0},
    }


@pytest.fixture
def card() -> TargetCard:
    """Return a board with TensorRT."""
    from deploy.cards import load_card

    return load_card("jetson-orin")


@pytest.fixture
def page(plan: QuantPlan, results: dict[str, Any], card: TargetCard) -> BuildPage:
    """Return a page in which nothing was timed and nothing evaluated."""
    counter = CodeCounter(ACTIVATION, np.float32(1))
    counter.add_codes(np.array([0, 1, 200]))
    return BuildPage(
        results=results,
        card=card,
        plan=plan,
        histograms={"x": counter.draw()},
        macs={"c": 3_000_000, "y": 1_000_000},
        synthesis=[{"step": 0.0, "statistics": 4.0, "loss": 5.0}],
        history=[{"step": 0.0, "features": 1.0, "loss": 2.0}, {"step": 1.0, "loss": 1.0}],
        pictures=None,
        measured=Measured(latency=None, left_out=()),
        settings=[Setting(name="--bits", value="w4a8", origin="asked")],
        reproduce=Command(text="edgeq build net.onnx --bits w4a8", purpose="This build again:"),
        onward=[Command(text="edgeq deploy USER@BOARD bundle", purpose="Build the engine.")],
    )
