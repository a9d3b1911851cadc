from __future__ import annotations

import pytest

from deploy.cards import card_names, load_card
from edgeq.core.errors import TargetError
from edgeq.core.specs import TargetCard


def test_the_three_targets_of_this_release_are_known():
    assert card_names() == ("cpu", "jetson-orin", "rtx-4090")


@pytest.mark.parametrize("name", card_names())
def test_a_card_is_complete_and_says_where_its_facts_come_from(name):
    card = load_card(name)
    assert card.name == name
    assert card.sources
    assert card.notes
    assert 13 <= card.opset_min <= card.opset_max  # per-channel Q/DQ came with opset 13
    assert card.runtime in {"tensorrt", "onnxruntime"}
    assert TargetCard.from_dict(card.to_dict()) == card


@pytest.mark.parametrize("name", [name for name in card_names() if name != "cpu"])
def test_a_gpu_card_has_the_figures_that_estimates_need(name):
    card = load_card(name)
    assert card.compute_capability
    assert min(card.memory_gb, card.bandwidth_gb_s, card.int8_tops, card.fp16_tops) > 0


def test_jetson_orin_is_jetpack_6_with_tensorrt_10_3():
    card = load_card("jetson-orin")
    assert (card.runtime_version, card.compute_capability) == ("10.3", "8.7")
    assert (card.opset_min, card.opset_max, card.ir_max) == (13, 20, 10)
    assert card.weak_typing
    assert card.prequantized_weights


def test_the_cpu_card_warns_that_its_latency_says_nothing_about_tensorrt():
    assert any("nothing about TensorRT" in note for note in load_card("cpu").notes)


def test_an_unknown_target_is_refused_with_the_nearest_name():
    with pytest.raises(TargetError, match="unknown target 'jetson-orn'") as caught:
        load_card("jetson-orn")
    assert caught.value.exit_code == 4
    assert "did you mean jetson-orin" in caught.value.mend


@pytest.mark.parametrize("name", ["", "../cards", "CPU"])
def test_a_name_that_is_no_card_is_refused(name):
    with pytest.raises(TargetError):
        load_card(name)
