from __future__ import annotations

import json
from typing import Any

import pytest

from edgeq.core.plan import Decision, FixedRange, Grid, OwnRange, QuantPlan, Role, SharedRange, Site

LONG = "the reason is a sentence that is much wider than any terminal, " * 4


def decide(tensor: str, grid: Grid | None, owner: Any, reason: str) -> Decision:
    return Decision(
        tensor=tensor,
        role=Role.ACTIVATION,
        grid=grid,
        owner=owner,
        sites=(Site(node="n", index=0, op_type="Conv"),),
        rule="conv_input",
        reason=reason,
    )


@pytest.fixture
def plan(pipeline: Any) -> QuantPlan:
    """Return the plan that the pipeline answers with."""
    grid = Grid(bits=8)
    plan = QuantPlan(
        target="cpu",
        bits="w8a8",
        decisions=(
            decide("input", grid, FixedRange(amax=2.5), "known"),
            decide("stem", grid, OwnRange(), LONG),
            decide("pool", grid, SharedRange(with_tensor="stem"), "max pooling keeps codes"),
            decide("[bold]odd[/bold]", None, None, "stays"),
        ),
    )
    pipeline.answer = lambda options: plan
    return plan


def test_every_tensor_has_a_line_that_is_not_cut(edgeq: Any, plan: QuantPlan) -> None:
    lines = edgeq("explain", "m.onnx", "--target", "cpu").out.splitlines()
    assert [line.split()[0] for line in lines] == [
        "tensor",
        "input",
        "stem",
        "pool",
        "[bold]odd[/bold]",
    ]
    assert "int8 -128..127 per tensor, fixed at 2.5 " in lines[1]
    assert lines[2].endswith(LONG.strip())
    assert "scale of stem" in lines[3]
    assert "  float  " in lines[4]


def test_json_is_the_plan_itself(edgeq: Any, plan: QuantPlan) -> None:
    done = edgeq("explain", "m.onnx", "--target", "cpu", "--json")
    assert QuantPlan.from_dict(json.loads(done.out)) == plan


def test_a_width_that_no_grid_has_ends_with_3(edgeq: Any, plan: QuantPlan) -> None:
    assert edgeq("explain", "m.onnx", "--target", "cpu", "--bits", "w1a8").code == 3
