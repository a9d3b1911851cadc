from __future__ import annotations

import dataclasses

from edgeq.core.plan import Site
from edgeq.report.layers import gather_layers

MACS = {"c": 1, "y": 3}


def test_the_layers_with_most_products_come_first(plan, results):
    rows = gather_layers(plan, results["agreement"]["layers"], {}, MACS)
    assert [(row.name, row.op_type, row.order, row.sqnr_db, row.macs_pct) for row in rows] == [
        ("y", "Gemm", 2, 21.5, 75),
        ("c", "Conv", 1, 30.25, 25),
    ]


def test_a_layer_whose_products_are_not_counted_comes_last(plan, results):
    rows = gather_layers(plan, results["agreement"]["layers"], {}, {"c": 1})
    assert [(row.name, row.macs) for row in rows] == [("c", 1), ("y", None)]


def test_a_layer_has_its_quantized_inputs_weights_first(plan, results, page):
    rows = gather_layers(plan, results["agreement"]["layers"], page.histograms, MACS)
    assert [item.name for item in rows[1].tensors] == ["w", "x"]
    assert [item.histogram for item in rows[1].tensors] == [None, page.histograms["x"]]
    assert [item.name for item in rows[0].tensors] == ["p"]


def test_the_most_clipped_input_counts(plan, results, page):
    rows = gather_layers(plan, results["agreement"]["layers"], page.histograms, MACS)
    assert [row.clipped_pct for row in rows] == [0, page.histograms["x"].clipped_pct]
    assert page.histograms["x"].clipped_pct > 33


def test_a_node_that_was_not_compared_comes_last(plan, results):
    pool = Site(node="pool", index=0, op_type="GlobalAveragePool")
    first = dataclasses.replace(plan.decisions[0], sites=(pool, *plan.decisions[0].sites))
    changed = dataclasses.replace(plan, decisions=(first, *plan.decisions[1:]))
    row = gather_layers(changed, results["agreement"]["layers"], {}, MACS)[-1]
    assert (row.name, row.op_type, row.order, row.sqnr_db) == ("pool", "GlobalAveragePool", 3, None)
