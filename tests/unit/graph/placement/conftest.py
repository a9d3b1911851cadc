from __future__ import annotations

from collections.abc import Callable

import onnx
import pytest

from deploy.cards import load_card
from edgeq.core.plan import Decision
from edgeq.core.specs import BitSpec, InputSpec, Layout
from edgeq.graph.placement import plan_placement

Place = Callable[..., dict[str, Decision]]


@pytest.fixture(scope="session")
def picture() -> InputSpec:
    return InputSpec(
        name="x",
        shape=(4, 8, 8),
        batch=None,
        dtype="float32",
        layout=Layout.NCHW,
        mean=(0.5,) * 4,
        std=(0.25,) * 4,
        low=(-2.0,) * 4,
        high=(1.5,) * 4,
    )


@pytest.fixture(scope="session")
def place() -> Place:
    """Return a function from a model to its decisions by tensor name, for jetson-orin."""

    def run(
        model: onnx.ModelProto,
        bits: str = "w8a8",
        *,
        inputs: tuple[InputSpec, ...] = (),
        first_last_same: bool = False,
    ) -> dict[str, Decision]:
        plan = plan_placement(
            model,
            card=load_card("jetson-orin"),
            bits=BitSpec.parse(bits, first_last_same=first_last_same),
            inputs=inputs,
        )
        return {decision.tensor: decision for decision in plan.decisions}

    return run
