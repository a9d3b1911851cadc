from __future__ import annotations

import importlib.machinery
import json
import sys
from types import ModuleType

import pytest
from fake_trt import RELEASES, Script, make_tensorrt
from fake_trt.cuda import FakeCuda

from deploy.board import device_check
from deploy.board.driver import probe_driver
from deploy.cards import load_card
from deploy.probes import write_probes
from edgeq.core.errors import DeviceError, MissingDependencyError

REFUSAL = [("", "Relu", 0, "unsupported")]


@pytest.fixture
def script() -> Script:
    played = Script(layers=[("conv", "CaskConvolution", ["conv"], "Int8")])
    played.refused = {f"opset-{number}": REFUSAL for number in range(21, 25)}
    played.refused |= {f"ir-{number}": REFUSAL for number in range(11, 14)}
    played.refused |= {"uint8": REFUSAL, "fp8": REFUSAL}
    return played


@pytest.fixture
def check(tmp_path, script, monkeypatch):
    """Return a function that asks the stand-in of a release; what is said comes into `check.said`."""

    def ask(release="10.3", *, card=None, devices=1):
        module: ModuleType = make_tensorrt(release, script)
        module.__spec__ = importlib.machinery.ModuleSpec("tensorrt", None)
        monkeypatch.setitem(sys.modules, "tensorrt", module)
        write_probes(tmp_path / "probes", card)
        ask.said = []
        return device_check.check_device(
            tmp_path / "probes",
            out=tmp_path / "found.json",
            say=ask.said.append,
            probe=lambda: probe_driver(lambda name: FakeCuda(devices=devices)),
        )

    return ask


@pytest.mark.parametrize("release", list(RELEASES))
def test_every_question_is_put_to_each_release(check, release, tmp_path):
    report = check(release)
    assert report["probes"]["int8-conv"]["answer"] == "built, in INT8"
    assert report["probes"]["opset-20"]["answer"] == "taken"
    assert report["probes"]["uint8"]["answer"].startswith("refused: ")
    assert report["dla_cores"] == 2
    assert json.loads((tmp_path / "found.json").read_text()) == report


def test_a_card_that_is_right_agrees(check):
    report = check(card=load_card("jetson-orin"))
    assert [row["fact"] for row in report["card"] if not row["agrees"]] == []
    row = next(row for row in report["card"] if row["fact"] == "ir_max")
    assert row == {
        "fact": "ir_max",
        "card": 10,
        "found": 10,
        "evidence": "inferred",
        "agrees": True,
    }


@pytest.mark.parametrize(
    ("change", "fact", "found"),
    [
        ({"refused": {"opset-18": REFUSAL, "fp8": REFUSAL}}, "opset_max", 17),
        ({"refused": {"ir-13": REFUSAL, "fp8": REFUSAL}}, "ir_max", 12),
        ({"refused": {"int8-conv": REFUSAL, "fp8": REFUSAL}}, "prequantized_weights", False),
        ({"refused": {}}, "formats", ["int8", "int4-weights", "fp8"]),
        ({"layers": [("conv", "Cask", ["conv"], "Half")]}, "formats", ["int4-weights"]),
    ],
)
def test_a_card_that_is_wrong_is_told(check, script, change, fact, found):
    for key, value in change.items():
        setattr(script, key, value)
    report = check(card=load_card("jetson-orin"))
    row = next(row for row in report["card"] if row["fact"] == fact)
    assert (row["agrees"], row["found"]) == (False, found)
    assert any(line.startswith(f"card DIFFERS: {fact} ") for line in check.said)


def test_a_probe_that_cannot_be_built_is_an_answer(check, script):
    script.builds = False
    answer = check()["probes"]["int8-conv"]
    assert (answer["taken"], answer["built"]) == (True, False)
    assert answer["answer"].startswith("not built: ")


def test_a_probe_that_ends_the_process_is_named_in_the_file(check, tmp_path, monkeypatch):
    def die(trt, dialect, folder, item, *, is_weak):
        if item["name"] == "uint8":
            raise SystemError("the process would have died here")
        return {"answer": "taken"}

    monkeypatch.setattr(device_check, "ask", die)
    with pytest.raises(SystemError):
        check()
    left = json.loads((tmp_path / "found.json").read_text())
    assert left["running"] == "uint8"
    assert "int8-conv" in left["probes"]


def test_without_tensorrt_and_a_driver_both_are_named(tmp_path, monkeypatch):
    def missing(name):
        raise OSError(f"{name}: not there")

    monkeypatch.setattr(device_check.importlib.util, "find_spec", lambda name: None)
    write_probes(tmp_path / "probes", load_card("jetson-orin"))
    with pytest.raises(MissingDependencyError, match=r"'tensorrt'\); no NVIDIA driver") as caught:
        device_check.check_device(
            tmp_path / "probes",
            out=tmp_path / "found.json",
            say=print,
            probe=lambda: probe_driver(missing),
        )
    assert caught.value.exit_code == 5
    assert "python3-libnvinfer" in caught.value.mend
    assert len(json.loads((tmp_path / "found.json").read_text())["missing"]) == 2


def test_without_a_gpu_no_tensorrt_object_is_made(check, script):
    with pytest.raises(DeviceError, match="no device"):
        check(devices=0)
    assert script.made == []
