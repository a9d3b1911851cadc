from __future__ import annotations

import dataclasses

import pytest

from deploy.trtexec import BatchRange, timing_line, trtexec_line
from edgeq.core.errors import InputError, TargetError

# Removed from trtexec 11 (deployment/tensorrt.md 4.3).
GONE_IN_11 = {"--fp16", "--int8", "--bf16", "--fp8", "--int4", "--best", "--calib"}


@dataclasses.dataclass(frozen=True)
class Case:
    version: str
    required: frozenset[str]
    forbidden: frozenset[str]
    weak_typing: bool = True


CASES = [
    Case("8.5.2", frozenset({"--int8", "--fp16", "--buildOnly", "--memPoolSize=workspace:512"}),
         frozenset({"--stronglyTyped", "--skipInference", "--workspace=512"})),
    Case("8.6.1", frozenset({"--int8", "--fp16", "--skipInference"}),
         frozenset({"--stronglyTyped", "--buildOnly"})),
    Case("8.2.1", frozenset({"--int8", "--workspace=512", "--buildOnly"}),
         frozenset({"--memPoolSize=workspace:512", "--skipInference"})),
    Case("10.3", frozenset({"--int8", "--fp16", "--skipInference", "--memPoolSize=workspace:512"}),
         frozenset({"--stronglyTyped", "--buildOnly", "--workspace=512"})),
    Case("10.16.2", frozenset({"--stronglyTyped"}), frozenset(GONE_IN_11), weak_typing=False),
    Case("11.4.1", frozenset({"--skipInference"}), frozenset({*GONE_IN_11, "--stronglyTyped"}),
         weak_typing=False),
]  # fmt: skip


def build(card, inputs, **options):
    return trtexec_line(card, onnx_name="m.onnx", engine_name="m.plan", inputs=inputs, **options)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.version)
def test_the_line_has_the_flags_of_its_version_and_no_others(case, make_card, input_spec):
    card = make_card(case.version, weak_typing=case.weak_typing)
    line = build(card, [input_spec])
    assert case.required <= set(line)
    assert not case.forbidden & set(line)
    assert {"--onnx=m.onnx", "--saveEngine=m.plan", "--timingCacheFile=timing.cache"} <= set(line)
    assert {"--profilingVerbosity=detailed", "--exportLayerInfo=layers.json"} <= set(line)


def test_version_11_has_no_precision_flag_even_if_the_card_says_weak(make_card, input_spec):
    assert not GONE_IN_11 & set(build(make_card("11.4.1", weak_typing=True), [input_spec]))


def test_dynamic_batch_gets_three_shapes(make_card, input_spec):
    line = build(make_card(), [input_spec], batch=BatchRange(min=1, opt=4, max=8))
    assert [item for item in line if "Shapes" in item] == [
        "--minShapes=x:1x3x8x8",
        "--optShapes=x:4x3x8x8",
        "--maxShapes=x:8x3x8x8",
    ]


def test_fixed_batch_gets_no_shapes(make_card, input_spec):
    fixed = dataclasses.replace(input_spec, batch=1)
    assert not [item for item in build(make_card(), [fixed]) if "hapes" in item]
    assert not [
        item
        for item in timing_line(make_card(), engine_name="m.plan", inputs=[fixed])
        if "hapes" in item
    ]


def test_several_dynamic_inputs_share_one_flag(make_card, input_spec):
    second = dataclasses.replace(input_spec, name="y:0", shape=(4,), layout=input_spec.layout)
    line = build(make_card(), [input_spec, second])
    assert "--minShapes=x:1x3x8x8,y:0:1x4" in line


@pytest.mark.parametrize("name", ["a,b", "a'b"])
def test_a_name_that_trtexec_would_split_gets_no_line_where_it_would_be_in_one(
    make_card, input_spec, name
):
    odd = dataclasses.replace(input_spec, name=name)
    assert build(make_card(), [odd]) == []
    assert timing_line(make_card(), engine_name="m.plan", inputs=[odd]) == []
    assert build(make_card(), [dataclasses.replace(odd, batch=1)]) != []


@pytest.mark.parametrize("version", ["10.3", "10.16.2"])
def test_timing_on_10_asks_for_the_defaults_of_11(make_card, input_spec, version):
    line = timing_line(make_card(version), engine_name="m.plan", inputs=[input_spec])
    assert line == [
        "--loadEngine=m.plan",
        "--shapes=x:1x3x8x8",
        "--noDataTransfers",
        "--useSpinWait",
        "--useCudaGraph",
        "--warmUp=500",
        "--duration=10",
        "--percentile=50,90,95,99",
        "--exportTimes=times.json",
    ]


def test_timing_on_11_has_no_mode_flags(make_card, input_spec):
    line = timing_line(make_card("11.4.1"), engine_name="m.plan", inputs=[input_spec])
    assert not {"--noDataTransfers", "--useSpinWait", "--useCudaGraph"} & set(line)
    assert "--percentile=50,90,95,99" in line


def test_timing_on_8_has_one_percentile(make_card, input_spec):
    line = timing_line(make_card("8.5.2"), engine_name="m.plan", inputs=[input_spec])
    assert "--percentile=99" in line


def test_a_target_without_int8_is_refused(make_card, input_spec):
    with pytest.raises(TargetError, match="no INT8"):
        build(make_card("8.2.1", formats=()), [input_spec])


def test_a_target_without_tensorrt_is_refused(make_card, input_spec):
    with pytest.raises(TargetError, match="runs onnxruntime, not TensorRT"):
        build(make_card("1.18", runtime="onnxruntime"), [input_spec])


@pytest.mark.parametrize("sizes", [(0, 1, 1), (2, 1, 4), (1, 4, 2)])
def test_batch_sizes_out_of_order_are_refused(sizes):
    with pytest.raises(InputError, match="batch sizes"):
        BatchRange(min=sizes[0], opt=sizes[1], max=sizes[2])
