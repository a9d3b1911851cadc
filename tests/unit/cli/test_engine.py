"""`edgeq engine`: its words, what it hands on, and what it prints; the builder has tests of its own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from deploy.board.driver import Device
from deploy.board.inspector import Int8Report
from deploy.board.request import HardwareLevel
from deploy.engine.record import EngineResult
from deploy.engine.request import EngineSpec, ShapeRange
from edgeq.cli.engine import read_ranges
from edgeq.core.errors import InputError

RESULT = EngineResult(
    path="engine.plan",
    record="engine.plan.json",
    size_bytes=12_300_000,
    seconds=41.7,
    tensorrt_version="10.3.0",
    device=Device(name="Orin", compute_capability="8.7", cuda_version="12.6"),
    int8=Int8Report(
        int8=("a", "b"), missed=("Conv 'c'",), unknown=(), layers=9, reformats=1, standalone=2
    ),
)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Stand in for the builder; what it was asked comes into the dictionary."""
    calls: dict[str, Any] = {}

    def build(model: Path, card: Any, **more: Any) -> EngineResult:
        calls.update(model=model, card=card.name, **more)
        return RESULT

    monkeypatch.setattr("deploy.engine.build.build_engine", build)
    return calls


def test_the_defaults_are_said_and_handed_on(edgeq: Any, asked: dict[str, Any]) -> None:
    done = edgeq("engine", "net/model.qdq.onnx", "--target", "jetson-orin")
    assert done.code == 0
    assert asked["card"] == "jetson-orin"
    assert asked["out"] == Path("net/engine.plan")
    assert asked["spec"] == EngineSpec()
    assert asked["timing_cache"] is None
    assert done.err.splitlines()[0] == (
        "defaults: --out net/engine.plan --workspace-mb 512 --hardware-compatible none"
    )


@pytest.mark.parametrize("folder", [".", "..", "/"])
def test_a_folder_in_place_of_a_model_is_told(edgeq: Any, folder: str) -> None:
    done = edgeq("engine", folder, "--target", "jetson-orin")
    assert done.code == 3
    assert "the model is no ordinary file" in done.err


def test_every_option_is_handed_on(edgeq: Any, asked: dict[str, Any]) -> None:
    words = ["--out", "e.plan", "--timing-cache", "t.cache", "--workspace-mb", "256"]
    words += ["--shape", "x:1x3:2x3:4x3", "--version-compatible"]
    words += ["--hardware-compatible", "ampere+"]
    assert edgeq("engine", "m.onnx", "--target", "rtx-4090", *words).code == 0
    assert asked["out"] == Path("e.plan")
    assert asked["timing_cache"] == Path("t.cache")
    assert asked["spec"] == EngineSpec(
        workspace_mib=256,
        shapes=(ShapeRange(input="x", min=(1, 3), opt=(2, 3), max=(4, 3)),),
        is_version_compatible=True,
        hardware=HardwareLevel.AMPERE_PLUS,
    )


def test_what_runs_in_int8_is_printed(edgeq: Any, asked: dict[str, Any]) -> None:
    done = edgeq("engine", "m.onnx", "--target", "jetson-orin")
    assert done.out.splitlines() == [
        "engine.plan: 12.3 MB, TensorRT 10.3.0 on Orin, built in 42 s",
        "INT8: 2 of 3 layers that were meant to; 1 do not, 0 not told",
        "layers: 9, of them 1 reformats and 2 lone Q/DQ",
        "record: engine.plan.json",
    ]


def test_json_is_the_result(edgeq: Any, asked: dict[str, Any]) -> None:
    done = edgeq("engine", "m.onnx", "--target", "jetson-orin", "--json")
    assert json.loads(done.out) == RESULT.to_dict()


def test_an_engine_is_not_replaced_unasked(
    edgeq: Any, asked: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "engine.plan").write_bytes(b"old")
    done = edgeq("engine", "m.onnx", "--target", "jetson-orin")
    assert done.code == 3
    assert "the output is already there" in done.err
    assert not asked
    assert edgeq("engine", "m.onnx", "--target", "jetson-orin", "--overwrite").code == 0


def test_without_a_gpu_it_ends_with_6_and_a_way_out(edgeq: Any, tmp_path: Path) -> None:
    from onnx import parser

    text = (
        '<ir_version: 8, opset_import: ["" : 17]> n (float[1] x) => (float[1] y) { y = Relu (x) }'
    )
    (tmp_path / "m.onnx").write_bytes(parser.parse_model(text).SerializeToString())
    try:
        __import__("ctypes").CDLL("libcuda.so.1")
    except OSError:
        done = edgeq("engine", "m.onnx", "--target", "jetson-orin")
        assert done.code == 6
        assert "no NVIDIA driver" in done.err
        assert "./build.sh" in done.err
    else:
        pytest.skip("this machine has an NVIDIA driver")


def test_a_target_without_tensorrt_ends_with_4(edgeq: Any) -> None:
    done = edgeq("engine", "m.onnx", "--target", "cpu")
    assert done.code == 4


def test_an_unknown_level_ends_with_3_and_the_known_ones(edgeq: Any) -> None:
    done = edgeq("engine", "m.onnx", "--target", "jetson-orin", "--hardware-compatible", "volta+")
    assert done.code == 3
    assert "ampere+" in done.err


def test_a_name_may_hold_colons_and_may_be_left_away() -> None:
    first, second = read_ranges(["input:0:1x3:2x3:4x3", "1:2:4"])
    assert first == ShapeRange(input="input:0", min=(1, 3), opt=(2, 3), max=(4, 3))
    assert second == ShapeRange(min=(1,), opt=(2,), max=(4,))


@pytest.mark.parametrize("text", ["x:1x3", "1x3:2x3", "x:1x3:2x3:", "x:axb:1:1", ""])
def test_a_range_of_another_form_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="is not understood"):
        read_ranges([text])
