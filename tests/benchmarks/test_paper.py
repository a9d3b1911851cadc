from __future__ import annotations

from collections.abc import Callable

import onnx
import pytest
from paper import plan_paper

from edgeq.core.plan import QuantPlan, Role
from edgeq.core.specs import BitSpec

NET = """g (float[N,3,8,8] x) => (float[N,5] y)
<float[4,3,3,3] w0, float[4] b0, float[4,4,1,1] w1, float[4] b1, float[5,4] w2, float[5] b2, float zero, float six>
{
  c0 = Conv<pads=[1,1,1,1]>(x, w0, b0)
  r0 = Relu(c0)
  c1 = Conv(r0, w1, b1)
  s = Add(c1, r0)
  r1 = Clip(s, zero, six)
  p = GlobalAveragePool(r1)
  f = Flatten(p)
  y = Gemm<transB=1>(f, w2, b2)
}"""


@pytest.fixture(scope="module")
def plan(parse_graph: Callable[..., onnx.ModelProto]) -> QuantPlan:
    import numpy as np

    limits = {"zero": np.float32(0), "six": np.float32(6)}
    return plan_paper(parse_graph(NET, **limits), BitSpec.parse("w2a4"))


def test_every_weight_has_the_bits_that_were_asked_for(plan: QuantPlan):
    grids = {item.tensor: str(item.grid) for item in plan.quantized(Role.WEIGHT)}
    assert grids == dict.fromkeys(("w0", "w1", "w2"), "int2 -1..1 per channel 0")


def test_what_rectifiers_make_is_quantized_unsigned_for_every_reader(plan: QuantPlan):
    found = {item.tensor: item for item in plan.quantized(Role.ACTIVATION)}
    assert {name: str(item.grid) for name, item in found.items()} == dict.fromkeys(
        ("r0", "r1"), "uint4 0..15 per tensor"
    )
    readers = {name: [site.op_type for site in item.sites] for name, item in found.items()}
    assert readers == {"r0": ["Conv", "Add"], "r1": ["GlobalAveragePool"]}


def test_the_picture_and_what_enters_the_last_layer_stay_float(plan: QuantPlan):
    quantized = {item.tensor for item in plan.quantized()}
    assert quantized.isdisjoint({"x", "p", "f", "s", "c1"})


def test_no_target_has_this_placement(plan: QuantPlan):
    from deploy.cards import load_card
    from edgeq.core.errors import EdgeqError

    with pytest.raises(EdgeqError):
        load_card(plan.target)
