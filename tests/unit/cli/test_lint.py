from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest

SOUND = "g (float[N,4] x) => (float[N,4] y) { y = Relu(x) }"
MENDABLE = """g (float[N,4] x) => (float[N,4] y) <float s = {0.1}, uint8 z = {128}>
{ q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z) y = Relu(d) }"""
BEYOND = MENDABLE.replace("128", "7")
WARNED = SOUND.replace("float[N,4] x", "float[N,H] x")


@pytest.fixture
def model(parse_graph: Any, tmp_path: Path) -> Callable[[str], str]:
    """Return a function from graph text to the path of its file."""

    def write(text: str) -> str:
        path = tmp_path / "m.onnx"
        onnx.save(parse_graph(text), path)
        return str(path)

    return write


def test_a_sound_file_ends_with_0(edgeq: Any, model: Any) -> None:
    done = edgeq("lint", model(SOUND), "--target", "jetson-orin")
    assert done.code == 0
    assert "0 errors, 0 warnings for Jetson AGX Orin" in done.out


def test_warnings_alone_end_with_0(edgeq: Any, model: Any) -> None:
    done = edgeq("lint", model(WARNED), "--target", "jetson-orin")
    assert done.code == 0
    assert "warning [model.dynamic-shape], 1x" in done.out


def test_errors_end_with_7_and_say_node_what_why_and_mend(edgeq: Any, model: Any) -> None:
    done = edgeq("lint", model(BEYOND), "--target", "jetson-orin")
    assert done.code == 7
    assert "error [qdq.zero-point], 2x\n  why:  TensorRT quantizes symmetrically" in done.out
    assert "\n  mend: use a signed symmetric grid" in done.out
    assert "  - q: zero point 'z' is not 0" in done.out
    assert "--fix --out FIXED.onnx" in done.err


def test_fix_writes_another_file_and_lists_what_it_did(
    edgeq: Any, model: Any, tmp_path: Path
) -> None:
    path = model(MENDABLE)
    before = Path(path).read_bytes()
    out = tmp_path / "fixed.onnx"
    done = edgeq("lint", path, "--target", "jetson-orin", "--fix", "--out", str(out))
    assert done.code == 0, done.err
    assert "mended [qdq.type] q: UINT8 with zero point 128" in done.out
    assert Path(path).read_bytes() == before
    assert edgeq("lint", str(out), "--target", "jetson-orin").code == 0


WEIGHT = """g (float[N,4,2,2] x) => (float[N,4,2,2] y) <float s = {0.1}, int8 z = {0}, int8[4,4,1,1] k,
 float[4] t = {0.1, 0.2, 0.3, 0.4}, int8[4] u = {0, 0, 0, 0}>
{ q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z) w = DequantizeLinear<axis=0>(k, t, u) y = Conv(d, w) }"""
FIXABLE = {
    "qdq.inputs": WEIGHT.replace("<axis=0>(k, t, u)", "<axis=0>(k, t)"),
    "qdq.axis": MENDABLE.replace("{0.1}", "{0.1}, float[4] t = {0.1, 0.2, 0.3, 0.4}, int8[4] u = {0, 0, 0, 0},"
    " int8[4,4] k").replace("y = Relu(d)", "w = DequantizeLinear(k, t, u) y = MatMul(d, w)"),
    "qdq.type": MENDABLE,
    "model.opset": '<ir_version: 7, opset_import: ["" : 11]> '
    "g (float[N,4] x) => (float[N,4] y) { y = Relu(x) }",
}  # fmt: skip


@pytest.mark.parametrize("check", FIXABLE)
def test_fix_mends_each_fault_that_changes_no_value(
    edgeq: Any, model: Any, tmp_path: Path, check: str
) -> None:
    words = (model(FIXABLE[check]), "--target", "jetson-orin")
    assert f"error [{check}]" in edgeq("lint", *words).out
    out = str(tmp_path / "fixed.onnx")
    done = edgeq("lint", *words, "--fix", "--out", out)
    assert done.code == 0, done.out
    assert f"mended [{check}]" in done.out
    assert edgeq("lint", out, "--target", "jetson-orin").code == 0


def test_fix_may_write_in_place_if_told_so(edgeq: Any, model: Any) -> None:
    path = model(MENDABLE)
    assert edgeq("lint", path, "--target", "jetson-orin", "--fix", "--out", path).code == 0
    assert edgeq("lint", path, "--target", "jetson-orin").code == 0


def test_what_cannot_be_mended_still_ends_with_7(edgeq: Any, model: Any, tmp_path: Path) -> None:
    out = str(tmp_path / "fixed.onnx")
    done = edgeq("lint", model(BEYOND), "--target", "jetson-orin", "--fix", "--out", out)
    assert done.code == 7
    assert "would change values" in done.err


@pytest.mark.parametrize("words", [("--fix",), ("--out", "f.onnx")])
def test_fix_and_out_belong_together(edgeq: Any, model: Any, words: tuple[str, ...]) -> None:
    assert edgeq("lint", model(SOUND), "--target", "cpu", *words).code == 2


def test_json_holds_the_findings_and_the_exit_code_stays(edgeq: Any, model: Any) -> None:
    done = edgeq("lint", model(BEYOND), "--target", "jetson-orin", "--json")
    assert done.code == 7
    found = json.loads(done.out)
    assert found["target"] == "jetson-orin"
    assert {item["check"] for item in found["findings"]} == {"qdq.zero-point", "qdq.type"}
    assert found["fixes"] == []


def test_a_chip_without_int8_is_told_once(edgeq: Any, model: Any) -> None:
    done = edgeq("lint", model(MENDABLE), "--target", "jetson-nano")
    assert done.code == 7
    assert done.out.count("'jetson-nano' runs no INT8") == 1


def test_what_is_no_model_ends_with_3(edgeq: Any, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_text("no model")
    assert edgeq("lint", str(path), "--target", "cpu").code == 3


def test_an_invalid_model_ends_with_3(edgeq: Any, parse_graph: Any, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    text = "g (float[N,4] x) => (float[N,4] y) { y = MatMul(x) }"
    path.write_bytes(parse_graph(text, check=False).SerializeToString())
    done = edgeq("lint", str(path), "--target", "cpu")
    assert done.code == 3
    assert "ONNX's checker refuses" in done.err


def test_external_data_outside_the_folder_are_refused(
    edgeq: Any, parse_graph: Any, tmp_path: Path
) -> None:
    path = tmp_path / "m.onnx"
    model = parse_graph(MENDABLE)
    (scale,) = [item for item in model.graph.initializer if item.name == "s"]
    scale.ClearField("float_data")
    scale.data_location = onnx.TensorProto.EXTERNAL
    scale.external_data.add(key="location", value="../secret")
    path.write_bytes(model.SerializeToString())
    done = edgeq("lint", str(path), "--target", "cpu")
    assert done.code == 3
    assert "outside the model's folder" in done.err


def test_help_tells_the_exit_codes(edgeq: Any) -> None:
    words = " ".join(edgeq("lint", "--help").out.split())
    assert "with 7 if errors were" in words
