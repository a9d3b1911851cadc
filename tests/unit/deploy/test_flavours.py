from __future__ import annotations

import pytest

from deploy.cards import load_card
from deploy.flavours import choose_flavour
from edgeq.core.errors import TargetError
from edgeq.core.specs import GraphFlavour

FP32, FP16 = GraphFlavour.FP32_TYPED, GraphFlavour.FP16_TYPED


@pytest.mark.parametrize(
    ("target", "asked", "half_types", "flavour"),
    [
        ("jetson-orin", None, (), FP32),
        ("jetson-orin", FP16, (), FP16),
        ("jetson-orin", None, ("float16",), FP16),
        ("jetson-orin", FP32, ("float16",), FP32),
        ("jetson-orin", None, ("bfloat16",), FP32),
        ("jetson-xavier", None, ("float16",), FP32),
        ("cpu", None, ("float16",), FP32),
        ("rtx-4090", None, (), FP16),
        ("rtx-4090", FP32, (), FP32),
    ],
)
def test_the_question_wins_then_the_file_then_the_card(target, asked, half_types, flavour):
    card = load_card(target)
    if target == "cpu":
        flavour = card.flavour
    chosen = choose_flavour(card, asked, half_types=half_types)
    assert chosen.flavour is flavour
    assert (chosen is card) == (flavour is card.flavour)


@pytest.mark.parametrize(
    ("target", "why"),
    [
        ("jetson-xavier", "strong typing came with TensorRT 10"),
        ("cpu", "casts FP16 back and forth"),
    ],
)
def test_what_a_target_cannot_take_is_refused_with_the_reason(target, why):
    with pytest.raises(TargetError, match="takes no fp16-typed graph") as caught:
        choose_flavour(load_card(target), FP16)
    assert why in caught.value.why
    assert "--flavour" in caught.value.mend
