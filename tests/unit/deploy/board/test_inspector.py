from __future__ import annotations

import json

import pytest
from fake_trt import inspector_json

from deploy.board.inspector import MeantNode, judge_int8, read_layers
from edgeq.core.errors import BuildError

CONV = MeantNode(name="/block/conv", operator="Conv")


def layers(*rows: tuple[str, str, list[str], str], major: int = 10) -> str:
    return inspector_json(major, list(rows), ["x"])


@pytest.mark.parametrize("major", [8, 10, 11])
@pytest.mark.parametrize("word", ["Int8", "INT8"])
def test_int8_is_found_in_each_form(major: int, word: str) -> None:
    found = read_layers(layers(("c", "CaskConvolution", [CONV.name], word), major=major))
    assert found.tensors == ("x",)
    assert judge_int8(found, [CONV]).int8 == (CONV.name,)


def test_the_words_of_tensorrt_8_are_understood() -> None:
    text = json.loads(layers(("c", "CaskConvolution", [CONV.name], "Half")))
    text["Layers"][0]["Inputs"][0]["Format/Datatype"] = (
        "Thirty-two wide channel vectorized row major Int8 format."
    )
    assert judge_int8(read_layers(json.dumps(text)), [CONV]).int8 == (CONV.name,)


def test_both_spellings_of_the_split_field_are_read() -> None:
    for key in ("DataType", "Datatype"):
        text = json.loads(layers(("c", "CaskConvolution", [CONV.name], "Half"), major=11))
        tensor = text["Layers"][0]["Inputs"][0]
        tensor.pop("Datatype")
        tensor[key] = "Int8"
        assert judge_int8(read_layers(json.dumps(text)), [CONV]).int8 == (CONV.name,)


def test_an_int8_output_alone_does_not_count() -> None:
    text = json.loads(layers(("c", "CaskConvolution", [CONV.name], "Half")))
    text["Layers"][0]["Outputs"][0]["Format/Datatype"] = "Row major linear Int8 format"
    (missed,) = judge_int8(read_layers(json.dumps(text)), [CONV]).missed
    assert missed == "Conv '/block/conv': layer 'c' takes Row major linear Half format"


def test_uint8_is_no_int8() -> None:
    report = judge_int8(read_layers(layers(("c", "Conv", [CONV.name], "UInt8"))), [CONV])
    assert len(report.missed) == 1


def test_a_name_with_brackets_and_both_separators_is_read() -> None:
    text = json.loads(layers(("c", "CaskConvolution", ["a"], "Int8")))
    text["Layers"][0]["Metadata"] = "[ONNX Layer: a[0]]\x1f[ONNX Layer: b]\x1e[ONNX Layer: c]"
    (layer,) = read_layers(json.dumps(text)).layers
    assert layer.nodes == ("a[0]", "b", "c")


def test_without_metadata_the_name_tells_the_nodes() -> None:
    text = json.loads(layers(("/block/conv + relu", "CaskConvolution", [], "Int8")))
    text["Layers"][0].pop("Metadata")
    assert judge_int8(read_layers(json.dumps(text)), [CONV]).int8 == (CONV.name,)


def test_a_name_that_only_begins_alike_is_another_node() -> None:
    found = read_layers(layers(("c", "CaskConvolution", ["/block/conv_1"], "Int8")))
    (unknown,) = judge_int8(found, [CONV]).unknown
    assert unknown.endswith("no layer of the engine names it")


def test_an_opaque_region_is_not_claimed() -> None:
    name = "{ForeignNode[/block/conv.../head/Gemm]}"
    found = read_layers(layers((name, "Myelin", [CONV.name], "Int8")))
    report = judge_int8(found, [CONV])
    assert (report.int8, report.missed) == ((), ())
    assert "shows no types" in report.unknown[0]


def test_types_that_are_not_told_are_unknown() -> None:
    found = read_layers(layers(("c", "CaskConvolution", [CONV.name], "N/A due to dynamic shapes")))
    assert judge_int8(found, [CONV]).unknown[0].endswith("layer 'c' tells no types")


def test_a_node_of_which_one_layer_runs_in_fp16_missed() -> None:
    rows = [("c1", "Conv", [CONV.name], "Int8"), ("c2", "Conv", [CONV.name], "Half")]
    assert len(judge_int8(read_layers(layers(*rows)), [CONV]).missed) == 1


def test_layers_by_name_alone_are_unknown() -> None:
    text = json.dumps({"Layers": ["/block/conv + relu"], "Bindings": ["x"]})
    assert judge_int8(read_layers(text), [CONV]).unknown[0].endswith("tells no types")


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("{", "it is no JSON"),
        ("[]", "it has no list 'Layers'"),
        ('{"Layers": []}', "neither 'Bindings' nor 'I/O Tensors'"),
        ('{"Layers": [1], "Bindings": []}', "a layer is neither an object nor a name"),
    ],
)
def test_another_form_is_refused(text: str, what: str) -> None:
    with pytest.raises(BuildError, match=what):
        read_layers(text)
