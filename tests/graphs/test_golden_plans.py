"""Text graphs in, placement as text out. To accept a change: EDGEQ_REGENERATE=1 pytest tests/graphs; read the diff."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from deploy.cards import load_card
from edgeq.core.plan import Decision, FixedRange, SharedRange
from edgeq.core.specs import BitSpec, InputSpec, Layout
from edgeq.graph.placement import plan_placement
from edgeq.graph.view import GraphView

GRAPHS = sorted(Path(__file__).parent.glob("*.onnxtxt"))


def line(decision: Decision) -> str:
    owner = decision.owner
    scale = (
        f", scale of {owner.with_tensor}"
        if isinstance(owner, SharedRange)
        else f", amax {owner.amax:g}"
        if isinstance(owner, FixedRange)
        else ""
    )
    sites = " ".join(f"{site.op_type}:{site.node}[{site.index}]" for site in decision.sites)
    grid = "float" if decision.grid is None else f"{decision.grid}{scale}"
    return f"{decision.tensor}: {grid}\n  at {sites}\n  {decision.rule}: {decision.reason}\n"


def picture(view: GraphView) -> InputSpec:
    channels, *sizes = (size or 1 for size in view.shape("x")[1:])
    return InputSpec(
        name="x",
        shape=(channels, *sizes),
        batch=None,
        dtype="float32",
        layout=Layout.NCHW if len(sizes) == 2 else Layout.OTHER,
        mean=(),
        std=(),
        low=(-2.0,),
        high=(2.5,),
    )


@pytest.mark.parametrize("path", GRAPHS, ids=[path.stem for path in GRAPHS])
def test_the_plan_of_a_graph_is_the_one_that_was_reviewed(parse_graph, path):
    model = parse_graph(path.read_text("utf-8"))
    plan = plan_placement(
        model,
        card=load_card("jetson-orin"),
        bits=BitSpec.parse("w4a4"),
        inputs=(picture(GraphView(model)),),
    )
    text = "".join(line(decision) for decision in plan.decisions)
    golden = path.with_suffix(".plan.txt")
    if os.environ.get("EDGEQ_REGENERATE"):
        golden.write_text(text, "utf-8")
    assert text == golden.read_text("utf-8")
