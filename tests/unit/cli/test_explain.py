from __future__ import annotations

import json
from typing import Any

import pytest

from edgeq.core.plan import Decision, FixedRange, Grid, OwnRange, QuantPlan, Role, SharedRange, Site
from edgeq.graph.half_rules import Kept
from edgeq.graph.regions import Kind, Region
from edgeq.pipeline.explain import Explanation

REGIONS = (
    Region(nodes=("q",), kind=Kind.CONVERSION, ops="QuantizeLinear", precision="fp32 to int8", reason="in"),
    Region(nodes=("c", "r"), kind=Kind.KERNEL, ops="Conv+Relu", precision="int8", reason="both"),
)  # fmt: skip
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
    pipeline.answer = lambda options: Explanation(plan=plan, regions=REGIONS)
    return plan


def test_every_tensor_has_a_line_that_is_not_cut(edgeq: Any, plan: QuantPlan) -> None:
    lines = edgeq("explain", "m.onnx", "--target", "cpu").out.split("\n\n")[0].splitlines()
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


def test_json_holds_the_plan_itself_and_the_predicted_kernels(edgeq: Any, plan: QuantPlan) -> None:
    done = edgeq("explain", "m.onnx", "--target", "cpu", "--json")
    found = json.loads(done.out)
    assert QuantPlan.from_dict(found["plan"]) == plan
    assert tuple(map(Region.from_dict, found["regions"])) == REGIONS


def test_a_width_that_no_grid_has_ends_with_3(edgeq: Any, plan: QuantPlan) -> None:
    assert edgeq("explain", "m.onnx", "--target", "cpu", "--bits", "w1a8").code == 3


def test_predicted_kernels_follow_and_say_that_nothing_was_verified(
    edgeq: Any, plan: QuantPlan
) -> None:
    text = edgeq("explain", "m.onnx", "--target", "jetson-orin").out.split("\n\n")[1]
    title, head, *rows, total = text.splitlines()
    assert "not verified on hardware" in title
    assert head.split() == ["nodes", "operators", "precision", "reason"]
    assert [row.split()[0] for row in rows] == ["q", "c"]
    assert "c .. r" in rows[1]
    assert total.startswith("2 kernels; 1 of 1 convolutions and products in INT8; 1 conversions")


def test_a_file_with_qdq_nodes_has_predicted_kernels_only(edgeq: Any, pipeline: Any) -> None:
    pipeline.answer = lambda options: Explanation(plan=None, regions=REGIONS)
    lines = edgeq("explain", "m.onnx", "--target", "jetson-orin").out.splitlines()
    assert "predicted kernels" in lines[0]


def test_what_stays_in_float32_has_a_table_of_its_own(edgeq: Any, pipeline: Any) -> None:
    kept = Kept(node="soft", op_type="Softmax", rule="delicate", reason="exponentials")
    pipeline.answer = lambda options: Explanation(plan=None, regions=(), full=(kept,))
    lines = edgeq("explain", "m.onnx", "--target", "rtx-4090").out.splitlines()
    assert any(line.split() == ["soft", "Softmax", "delicate", "exponentials"] for line in lines)
    assert json.loads(edgeq("explain", "m.onnx", "--target", "cpu", "--json").out)["full"] == [
        kept.to_dict()
    ]
