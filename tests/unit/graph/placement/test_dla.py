from __future__ import annotations

import pytest

from deploy.cards import load_card
from edgeq.core.plan import QuantPlan, Role, SharedRange
from edgeq.core.specs import BitSpec
from edgeq.graph.placement import plan_placement

CARD = load_card("jetson-orin")


def plan(model, *, for_dla: bool = True) -> QuantPlan:
    return plan_placement(
        model, card=CARD, bits=BitSpec(weights=8, activations=8), inputs=(), for_dla=for_dla
    )


def graph(body: str, parameters: str = "float[4,4,3,3] w, float[4,4,3,3] v") -> str:
    return f"g (float[N,4,8,8] x) => (float[N,C,H,W] y) <{parameters}> {{ {body} }}"


CONV = "c = Conv<pads=[1,1,1,1]> (x, w) "


def owners(found: QuantPlan) -> dict[str, str]:
    """Return whose scale each quantized activation has."""
    return {
        item.tensor: item.owner.with_tensor if isinstance(item.owner, SharedRange) else item.tensor
        for item in found.quantized(Role.ACTIVATION)
    }


@pytest.mark.parametrize(
    ("body", "want"),
    [
        (CONV + "y = Sigmoid (c)", {"x": "x", "c": "c"}),
        (CONV + "r = Relu (c) y = Conv (r, v)", {"x": "x", "r": "r"}),
        (CONV + "y = Add (c, x)", {"x": "x", "c": "x"}),
        (CONV + "m = MaxPool<kernel_shape=[2,2]> (c) y = Conv (m, v)", {"x": "x", "c": "c", "m": "c"}),
        (CONV + "k = Concat<axis=1> (c, x) y = Sigmoid (k)", {"x": "x", "c": "x", "k": "x"}),
        (CONV + "r = Relu (c) y = Add (r, c)", {"x": "x", "c": "c", "r": "c"}),
    ],
    ids=["every-operand", "fused-relu", "element-wise", "pool", "concat", "relu-with-two-readers"],
)  # fmt: skip
def test_every_tensor_that_dla_reads_is_quantized_with_the_ranges_that_it_joins(
    parse_graph, body, want
):
    assert owners(plan(parse_graph(graph(body)))) == want


def test_the_gpu_gets_fewer_quantizers_and_its_rules_are_untouched(parse_graph):
    model = parse_graph(graph(CONV + "y = Sigmoid (c)"))
    assert owners(plan(model, for_dla=False)) == {"x": "x"}


def test_shapes_and_constants_are_left_alone(parse_graph):
    body = CONV + "n = Shape (c) z = ConstantOfShape (n) y = Add (z, b)"
    found = plan(parse_graph(graph(body, "float[4,4,3,3] w, float[1] b")))
    assert "n" not in owners(found)
    assert "b" not in owners(found)
