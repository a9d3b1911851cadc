from __future__ import annotations

import dataclasses
import importlib.util
from pathlib import Path

import pytest

from deploy import cards
from deploy.cards import (
    Capability,
    card_names,
    has_capability,
    load_card,
    nearest_target,
    require_capability,
)
from deploy.trtexec import tensorrt_version, timing_line, trtexec_line
from edgeq.core.errors import TargetError
from edgeq.core.specs import GraphFlavour, NumberFormat, TargetCard

ROOT = Path(__file__).parents[3]
NAMES = card_names()
TENSORRT = [name for name in NAMES if load_card(name).runtime == "tensorrt"]
INT8 = [name for name in TENSORRT if load_card(name).has_int8]
PROMISED = {
    *("jetson-nano", "jetson-tx2", "jetson-xavier", "jetson-xavier-nx", "jetson-orin"),
    *("jetson-orin-nx", "jetson-orin-nano", "jetson-orin@jetpack5", "jetson-orin@jetpack7.2"),
    *("jetson-thor", "rtx-2080", "rtx-2080-ti", "rtx-3080", "rtx-3090", "rtx-4080", "rtx-4090"),
    *("rtx-5080", "rtx-5090", "a10", "l4", "a100", "h100", "h200", "b200", "cpu"),
}
# What a TensorRT parser takes at most (deployment/tensorrt.md 2.1, 3.4).
OPSETS = {(8, 2): 13, (8, 5): 17, (10, 3): 20, (10, 16): 24}
# TensorRT that first has a format, and the compute capability that it needs (2.8, 1.3).
SINCE = {
    NumberFormat.BF16: ((10, 0), 8.0),
    NumberFormat.INT4_WEIGHTS: ((10, 0), 8.0),
    NumberFormat.FP8: ((10, 0), 8.9),
    NumberFormat.NVFP4: ((10, 8), 10.0),
    NumberFormat.MXFP8: ((10, 12), 10.0),
}


def version_of(card):
    return tensorrt_version(card)[:2]


def test_every_promised_target_has_a_card_and_no_other_has():
    assert set(NAMES) == PROMISED


def test_file_names_are_safe_on_every_system():
    stems = [path.name.removesuffix(".toml") for path in cards._FOLDER.glob("*.toml")]
    assert all(letter.isalnum() or letter in "-_." for stem in stems for letter in stem)
    assert len({stem.lower() for stem in stems}) == len(stems)
    assert not any("_" in name for name in NAMES)  # '_' in a file name stands for '@'


@pytest.mark.parametrize("name", NAMES)
def test_a_card_is_complete(name):
    card = load_card(name)
    assert card.name == name
    assert card.notes
    assert 13 <= card.opset_min <= card.opset_max  # per-channel Q/DQ came with opset 13
    assert card.runtime in {"tensorrt", "onnxruntime"}
    assert TargetCard.from_dict(card.to_dict()) == card


@pytest.mark.parametrize("name", NAMES)
def test_every_fact_has_a_source_that_says_how_it_is_known(name):
    card = load_card(name)
    facts = {field.name for field in dataclasses.fields(card)} - {
        "name", "title", "notes", "sources"
    }  # fmt: skip
    assert {fact for source in card.sources for fact in source.facts} == facts
    assert all(source.text for source in card.sources)


@pytest.mark.parametrize("name", TENSORRT)
def test_a_gpu_card_has_the_figures_that_estimates_need(name):
    card = load_card(name)
    assert float(card.compute_capability) > 5
    assert min(card.memory_gb, card.bandwidth_gb_s, card.fp16_tops) > 0
    assert (card.int8_tops > card.fp16_tops) == card.has_int8


@pytest.mark.parametrize("name", TENSORRT)
def test_a_card_agrees_with_what_its_tensorrt_and_its_chip_have(name):
    card = load_card(name)
    version, chip = version_of(card), float(card.compute_capability)
    assert card.opset_max == OPSETS[version]
    assert card.prequantized_weights == (version >= (10, 0))
    assert card.weak_typing == (version < (11, 0))
    assert card.has_int8 == (chip not in {5.3, 6.2})
    for kind, (since, capability) in SINCE.items():
        if kind in card.formats:
            assert version >= since
            assert chip >= capability


@pytest.mark.parametrize("name", TENSORRT)
def test_the_flavour_follows_from_the_version(name):
    card = load_card(name)
    typed = GraphFlavour.FP16_TYPED if version_of(card) >= (10, 12) else GraphFlavour.FP32_TYPED
    assert card.flavour is (typed if card.has_int8 else GraphFlavour.PLAIN)


@pytest.mark.parametrize("name", NAMES)
def test_dla_exists_only_where_tensorrt_and_module_have_it(name):
    card = load_card(name)
    assert (card.dla_cores == 0) == card.dla.startswith("none: ")
    assert (card.dla_cores == 0) == (card.dla_int8_tops == 0)
    if card.dla_cores:
        assert version_of(card) <= (10, 7)
        assert card.compute_capability in {"7.2", "8.7"}


@pytest.mark.parametrize("name", INT8)
def test_trtexec_gets_the_flags_of_the_cards_version(name, input_spec):
    card = load_card(name)
    line = trtexec_line(card, onnx_name="m.onnx", engine_name="m.plan", inputs=[input_spec])
    timing = timing_line(card, engine_name="m.plan", inputs=[input_spec])
    is_half = card.flavour is GraphFlavour.FP16_TYPED
    assert ({"--int8", "--fp16"} <= set(line)) == (not is_half)
    assert ("--stronglyTyped" in line) == is_half
    assert ("--buildOnly" in line) == (version_of(card) < (8, 6))
    assert ("--percentile=99" in timing) == (version_of(card) < (10, 0))


@pytest.mark.parametrize("name", sorted(set(NAMES) - set(INT8)))
def test_no_trtexec_line_for_a_target_that_builds_no_int8_engine(name, input_spec):
    with pytest.raises(TargetError):
        trtexec_line(load_card(name), onnx_name="m.onnx", engine_name="m.plan", inputs=[input_spec])


REFUSED = [
    ("jetson-nano", Capability.INT8, "FP32 and FP16", "jetson-xavier-nx", "FP16"),
    ("jetson-tx2", Capability.INT8, "FP32 and FP16", "jetson-xavier-nx", "FP16"),
    ("jetson-orin", Capability.FP8, "8.9", "jetson-thor", "INT8"),
    ("rtx-3090", Capability.FP8, "8.9", "rtx-4090", "INT8"),
    ("h100", Capability.NVFP4, "10.0", "b200", "INT8"),
    ("jetson-orin@jetpack5", Capability.INT4_WEIGHTS, "TensorRT 10", "jetson-orin", "w4a8"),
    ("jetson-thor", Capability.DLA, "Thor has no DLA", "jetson-orin", "INT8"),
    ("jetson-orin-nano", Capability.DLA, "have no DLA", "jetson-orin-nx", "INT8"),
    ("jetson-orin@jetpack7.2", Capability.DLA, "10.8 to 11.3", "jetson-orin", "INT8"),
    ("jetson-nano", Capability.DLA, "no DLA", "jetson-xavier-nx", "FP16"),
]


@pytest.mark.parametrize(("name", "wish", "why", "nearest", "instead"), REFUSED)
def test_what_a_chip_cannot_do_is_refused_with_the_reason_and_the_nearest_that_it_can(
    name, wish, why, nearest, instead
):
    with pytest.raises(TargetError, match=f"the target '{name}' .* has no ") as caught:
        require_capability(load_card(name), wish)
    assert caught.value.exit_code == 4
    assert why in caught.value.why
    assert instead in caught.value.mend
    assert caught.value.mend.endswith(f"--target {nearest}")
    require_capability(load_card(nearest), wish)  # which does not refuse it


@pytest.mark.parametrize("name", NAMES)
def test_int4_convolutions_are_refused_everywhere(name):
    with pytest.raises(TargetError, match="no INT4 convolutions") as caught:
        require_capability(load_card(name), Capability.INT4_CONVOLUTIONS)
    assert "MatMul and Gemm" in caught.value.why
    assert "no other target" in caught.value.mend


@pytest.mark.parametrize("wish", [wish for wish in Capability if wish.value != "int4-convolutions"])
def test_each_other_capability_is_had_by_some_target_and_not_by_all(wish):
    able = [name for name in NAMES if has_capability(load_card(name), wish)]
    assert 0 < len(able) < len(NAMES)
    for name in able:
        require_capability(load_card(name), wish)


def test_a_target_that_can_is_nearest_to_itself():
    card = load_card("l4")
    assert nearest_target(card, Capability.FP8) == card


def test_a_cpu_has_no_nearest_gpu():
    with pytest.raises(TargetError) as caught:
        require_capability(load_card("cpu"), Capability.DLA)
    assert "no other target of this kind" in caught.value.mend


def test_the_cpu_card_warns_that_its_latency_says_nothing_about_tensorrt():
    assert any("nothing about TensorRT" in note for note in load_card("cpu").notes)


def test_an_unknown_target_is_refused_with_the_nearest_name():
    with pytest.raises(TargetError, match="unknown target 'jetson-orn'") as caught:
        load_card("jetson-orn")
    assert caught.value.exit_code == 4
    assert "did you mean jetson-orin" in caught.value.mend


@pytest.mark.parametrize("name", ["", "../cards", "CPU", "jetson-orin_jetpack5"])
def test_a_name_that_is_no_card_is_refused(name):
    with pytest.raises(TargetError):
        load_card(name)


def test_the_document_on_targets_is_what_the_script_writes():
    spec = importlib.util.spec_from_file_location("list_targets", ROOT / "tools/list_targets.py")
    assert spec is not None
    assert spec.loader is not None
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    assert tool.DOCUMENT.read_text("utf-8") == tool.write_document(), (
        "run python tools/list_targets.py"
    )
