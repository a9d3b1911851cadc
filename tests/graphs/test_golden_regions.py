"""The predicted kernels of each graph. To accept a change: EDGEQ_REGENERATE=1 pytest tests/graphs; read the diff."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from deploy.cards import load_card
from edgeq.core.specs import BitSpec
from edgeq.graph.insert_qdq import insert_qdq
from edgeq.graph.placement import plan_placement
from edgeq.graph.regions import Kind, predict_regions
from edgeq.graph.regions.kernels import RegionView
from edgeq.pipeline.explain import blank_values

GRAPHS = sorted(Path(__file__).parent.glob("*.onnxtxt"))


@pytest.mark.parametrize("path", GRAPHS, ids=[path.stem for path in GRAPHS])
def test_the_predicted_kernels_of_a_graph_are_those_that_were_reviewed(parse_graph, path):
    card = load_card("jetson-orin")
    model = parse_graph(path.read_text("utf-8"))
    plan = plan_placement(model, card=card, bits=BitSpec.parse("w8a8"), inputs=())
    written = insert_qdq(model, plan, blank_values(model, plan), card=card).model
    regions = predict_regions(written, card)
    covered = [node for item in regions if item.kind is not Kind.CONVERSION for node in item.nodes]
    static = RegionView(model, model).static
    assert sorted(covered) == sorted(
        node.output[0] for node in model.graph.node if not static.issuperset(node.output)
    )
    text = "".join(
        f"{' '.join(item.nodes)}: {item.ops}, {item.precision}\n  {item.reason}\n"
        for item in regions
    )
    golden = path.with_suffix(".regions.txt")
    if os.environ.get("EDGEQ_REGENERATE"):
        golden.write_text(text, "utf-8")
    assert text == golden.read_text("utf-8")
