"""The whole way from the file to the engine, against a stand-in with the names of each release."""

from __future__ import annotations

import hashlib
import json
import logging
import subprocess
import sys

import pytest
from fake_trt import RELEASES

from deploy.board.driver import Device
from deploy.board.request import HardwareLevel
from deploy.calibration_cache import write_cache
from deploy.cards import load_card
from deploy.engine.build import build_engine
from deploy.engine.request import EngineSpec, ShapeRange
from edgeq.core.errors import (
    BuildError,
    DeviceError,
    InputError,
    MissingDependencyError,
    ModelError,
    TargetError,
)

ORIN = Device(name="Orin", compute_capability="8.7", cuda_version="12.6")
RANGE = ShapeRange(min=(1, 3, 8, 8), opt=(4, 3, 8, 8), max=(8, 3, 8, 8))
EVERY = pytest.mark.parametrize("release", list(RELEASES))
MONITORED = [release for release in RELEASES if not release.startswith("8")]
PHASES = [
    ("phase_start", ("Building", None, 2)),
    ("step_complete", ("Building", 0)),
    ("step_complete", ("Building", 1)),
    ("phase_finish", ("Building",)),
]


class Heard:
    """Progress that keeps what it is told."""

    def __init__(self) -> None:
        self.events: list[tuple[object, ...]] = []

    def start(self, stage: str, total: int, unit: str) -> None:
        self.events.append(("start", stage, total, unit))

    def advance(self, n: int = 1, **figures: float) -> None:
        self.events.append(("advance", n))

    def finish(self, summary: str) -> None:
        self.events.append(("finish", summary))


class Interrupted(Heard):
    def advance(self, n: int = 1, **figures: float) -> None:
        raise KeyboardInterrupt


@pytest.fixture
def build(tmp_path, model, install, make_card):
    """Return a function that builds on the stand-in of a release."""

    def run(release, *, path=model, spec=None, is_weak=None, **more):
        install(release)
        card = make_card(release, is_weak=is_weak)
        out = tmp_path / "engine.plan"
        return build_engine(str(path), card, out=str(out), spec=spec, probe=lambda: ORIN, **more)

    return run


@EVERY
def test_an_engine_is_built_with_the_names_of_each_release(build, script, tmp_path, release):
    result = build(release)
    assert (tmp_path / "engine.plan").read_bytes().startswith(b"ftrt")
    assert result.size_bytes == 100
    assert script.made == ["Builder", "Runtime"]
    assert script.asked["WORKSPACE"] == 512 << 20
    assert script.asked["profiling_verbosity"] == "DETAILED"


@EVERY
def test_the_layers_that_missed_int8_are_found_in_each_form_of_the_inspector(
    build, caplog, release
):
    with caplog.at_level(logging.WARNING, "deploy"):
        report = build(release).int8
    assert report.int8 == ("conv1",)
    (missed,) = report.missed
    assert missed.startswith("Conv 'node_of_c2': layer 'c2' takes ")
    assert "half" in missed.lower()
    assert report.unknown == ()
    assert (report.layers, report.reformats, report.standalone) == (4, 1, 1)
    assert [record.getMessage() for record in caplog.records] == [
        f"meant to run in INT8 and does not: {missed}"
    ]


@pytest.mark.parametrize(
    ("release", "is_weak", "flags", "network"),
    [
        ("8.5", True, ["INT8", "FP16"], ["EXPLICIT_BATCH"]),
        ("8.6", True, ["INT8", "FP16"], ["EXPLICIT_BATCH"]),
        ("10.3", True, ["INT8", "FP16"], []),
        ("10.3", False, [], ["STRONGLY_TYPED"]),
        ("10.16", False, [], ["STRONGLY_TYPED"]),
        ("11.0", False, [], []),
        ("11.4", False, [], []),
    ],
)
def test_precision_is_asked_for_as_the_release_wants_it(
    build, script, release, is_weak, flags, network
):
    build(release, is_weak=is_weak)
    assert script.asked["flags"] == flags
    assert script.asked["network"] == network


@EVERY
def test_a_dynamic_input_gets_a_profile_and_its_types_are_read(
    build, script, dynamic_model, release
):
    report = build(release, path=dynamic_model, spec=EngineSpec(shapes=(RANGE,))).int8
    assert script.asked["profiles"] == [{"x": (RANGE.min, RANGE.opt, RANGE.max)}]
    assert report.int8 == ("conv1",)


def test_a_dynamic_input_without_a_range_is_refused_with_the_option_to_pass(build, dynamic_model):
    with pytest.raises(InputError) as caught:
        build("10.3", path=dynamic_model)
    assert "input 'x' has the dynamic shape ?x3x8x8 and no range" in caught.value.what
    assert caught.value.mend == "pass --shape x:1x3x8x8:8x3x8x8:16x3x8x8"


@EVERY
def test_every_parser_error_is_shown_with_its_node(build, script, tmp_path, release):
    script.faults = [
        ("conv1", "Conv", 3, "weights are odd"),
        ("node_of_c2", "Conv", 8, "so are these"),
    ]
    with pytest.raises(ModelError) as caught:
        build(release)
    assert "cannot parse model.qdq.onnx: 2 error(s)" in caught.value.what
    assert "node 'conv1'" in caught.value.what
    assert "weights are odd" in caught.value.what
    assert "node 'node_of_c2'" in caught.value.what
    assert "importers.cpp:42 in importOperator" in caught.value.what
    assert caught.value.node == "conv1"
    assert not (tmp_path / "engine.plan").exists()


def test_a_parser_error_without_a_node_says_so(build, script):
    script.faults = [("", "", -1, "no graph")]
    with pytest.raises(ModelError, match="no node named: no graph"):
        build("8.6")


@EVERY
def test_a_build_without_result_tells_what_the_log_said(build, script, tmp_path, release):
    script.builds, script.log = False, ["Could not find any implementation for node conv1."]
    with pytest.raises(BuildError, match="Could not find any implementation for node conv1"):
        build(release)
    assert list(tmp_path.glob("engine.plan*")) == []


def test_errors_of_an_earlier_build_are_not_shown_again(
    install, script, make_card, model, tmp_path
):
    install("10.3")
    script.builds = False
    for text in ("first", "second"):
        script.log = [text]
        with pytest.raises(BuildError) as caught:
            build_engine(model, make_card("10.3"), out=tmp_path / "e.plan", probe=lambda: ORIN)
        assert caught.value.what == f"TensorRT built no engine:\n  - {text}"


def test_without_a_driver_no_object_is_made(tmp_path, model, install, make_card, script):
    script.has_driver = False
    install("10.3")

    def missing() -> Device:
        raise DeviceError("no NVIDIA driver", why="w", mend="m")

    with pytest.raises(DeviceError):
        build_engine(model, make_card("10.3"), out=tmp_path / "e.plan", probe=missing)
    assert script.made == []


def test_a_builder_that_does_not_start_is_a_device_error_with_the_reason(build, script):
    script.starts = False
    with pytest.raises(DeviceError, match="does not start: CUDA initialization failure"):
        build("10.3")


@pytest.mark.parametrize(
    ("flaw", "kind", "what"),
    [
        ({"plugins": False}, BuildError, "plugins cannot be loaded"),
        ({"takes_profile": False}, BuildError, "refuses the ranges of shapes"),
        ({"loads": False}, BuildError, "cannot load the engine that it built"),
        ({"runs": None}, BuildError, "cannot run the engine that it built"),
        ({"runs": False}, BuildError, "refuses its own shape at 'x'"),
        ({"keeps_cache": False}, DeviceError, "no timing cache after the build"),
    ],
)
def test_every_call_that_can_fail_without_an_exception_is_looked_at(
    build, script, dynamic_model, tmp_path, flaw, kind, what
):
    for name, value in flaw.items():
        setattr(script, name, value)
    with pytest.raises(kind, match=what):
        build("10.3", path=dynamic_model, spec=EngineSpec(shapes=(RANGE,)))
    assert list(tmp_path.glob("engine.plan*")) == []


def test_a_target_without_int8_is_refused(tmp_path, model):
    with pytest.raises(TargetError, match="INT8"):
        build_engine(model, load_card("jetson-nano"), out=tmp_path / "e.plan", probe=lambda: ORIN)


def test_the_builder_imports_with_numpy_alone():
    code = (
        "import sys\n"
        "for name in ('onnx', 'onnxruntime', 'torch', 'tensorrt', 'polygraphy', 'typer', 'rich'):\n"
        "    sys.modules[name] = None\n"
        "import deploy.engine.build\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_without_tensorrt_the_command_that_installs_it_is_told(
    tmp_path, model, make_card, monkeypatch
):
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(MissingDependencyError) as caught:
        build_engine(model, make_card("10.3"), out=tmp_path / "e.plan", probe=lambda: ORIN)
    assert "sudo apt-get install python3-libnvinfer" in caught.value.mend
    desktop = load_card("rtx-4090")
    with pytest.raises(MissingDependencyError) as caught:
        build_engine(model, desktop, out=tmp_path / "e.plan", probe=lambda: ORIN)
    assert caught.value.mend == "pip install 'tensorrt==10.16.*'"


def test_another_tensorrt_and_another_gpu_are_said_at_once(tmp_path, model, install, make_card):
    install("10.7")
    other = Device(name="RTX 4090", compute_capability="8.9", cuda_version="12.6")
    with pytest.raises(TargetError) as caught:
        build_engine(model, make_card("10.3"), out=tmp_path / "e.plan", probe=lambda: other)
    assert "TensorRT is 10.7.0, the card has 10.3" in caught.value.what
    assert "RTX 4090 has compute capability 8.9, the card has 8.7" in caught.value.what


def test_a_target_without_tensorrt_builds_no_engine(tmp_path, model):
    with pytest.raises(TargetError, match="not TensorRT"):
        build_engine(model, load_card("cpu"), out=tmp_path / "e.plan", probe=lambda: ORIN)


@EVERY
def test_the_timing_cache_is_read_and_written(build, script, tmp_path, release):
    cache = tmp_path / "timing.cache"
    build(release, timing_cache=cache)
    assert script.asked["cache"] == b""
    assert cache.read_bytes() == b"measured"
    build(release, timing_cache=cache)
    assert script.asked["cache"] == b"measured"


def test_a_timing_cache_of_another_gpu_is_refused_and_kept(build, script, tmp_path):
    cache = tmp_path / "timing.cache"
    cache.write_bytes(b"of another")
    script.takes_cache = False
    with pytest.raises(InputError, match="the timing cache cannot be used"):
        build("10.3", timing_cache=cache)
    assert cache.read_bytes() == b"of another"


@pytest.mark.parametrize("place", ["out", "timing_cache"])
def test_a_place_that_cannot_be_written_is_told_before_the_build(
    script, install, make_card, model, tmp_path, place
):
    install("10.3")
    (tmp_path / "file").write_text("no folder")
    for path in (tmp_path / "file" / "e.plan", tmp_path):
        places = {"out": tmp_path / "e.plan", place: path}
        with pytest.raises(InputError, match="cannot write"):
            build_engine(model, make_card("10.3"), probe=lambda: ORIN, **places)
    assert "flags" not in script.asked
    assert sorted(item.name for item in tmp_path.iterdir()) == ["file", "model.qdq.onnx"]


def test_an_engine_outlives_a_timing_cache_that_cannot_be_written(
    build, script, tmp_path, monkeypatch, caplog
):
    def full(path, data):
        raise InputError("no room to write timing.cache", why="", mend="")

    monkeypatch.setattr("deploy.board.timing_cache.write_bytes", full)
    with caplog.at_level(logging.WARNING, "deploy"):
        build("10.3", timing_cache=tmp_path / "timing.cache")
    assert (tmp_path / "engine.plan").is_file()
    assert "the timing cache is not kept" in caplog.text


def test_the_timing_cache_is_kept_where_the_engine_cannot_be_inspected(build, script, tmp_path):
    script.loads = False
    with pytest.raises(BuildError, match="cannot load the engine that it built"):
        build("10.3", timing_cache=tmp_path / "timing.cache")
    assert (tmp_path / "timing.cache").read_bytes() == b"measured"


@pytest.mark.parametrize("release", [item for item in RELEASES if item != "8.5"])
def test_a_portable_engine_is_asked_for_where_it_is_offered(build, script, release):
    build(release, spec=EngineSpec(is_version_compatible=True, hardware=HardwareLevel.AMPERE_PLUS))
    assert "VERSION_COMPATIBLE" in script.asked["flags"]
    assert script.asked["hardware_compatibility_level"] == "AMPERE_PLUS"
    assert script.asked["parser"] == ["NATIVE_INSTANCENORM"]
    assert script.asked["is_trusted"] is True


def test_an_ordinary_engine_may_run_no_code(build, script):
    build("10.3")
    assert script.asked["is_trusted"] is False


@pytest.mark.parametrize(
    ("release", "level", "is_offered"),
    [
        ("8.5", HardwareLevel.AMPERE_PLUS, False),
        ("10.7", HardwareLevel.SAME_COMPUTE_CAPABILITY, False),
        ("10.13", HardwareLevel.SAME_COMPUTE_CAPABILITY, True),
        ("11.4", HardwareLevel.SAME_COMPUTE_CAPABILITY, True),
    ],
)
def test_a_hardware_level_that_a_release_lacks_is_refused(
    build, script, release, level, is_offered
):
    if is_offered:
        build(release, spec=EngineSpec(hardware=level))
        assert script.asked["hardware_compatibility_level"] == level.name
        return
    with pytest.raises(TargetError, match="cannot build this portable engine"):
        build(release, spec=EngineSpec(hardware=level))
    assert script.made == []


@pytest.mark.parametrize("release", MONITORED)
def test_the_monitor_of_tensorrt_is_heard(build, script, release):
    script.phases = PHASES
    heard = Heard()
    build(release, progress=heard)
    assert heard.events == [
        ("start", "Building", 100, "%"),
        ("advance", 50),
        ("advance", 49),
        ("advance", 1),
        ("finish", "done"),
    ]


def test_without_a_monitor_the_build_is_one_step(build):
    heard = Heard()
    build("8.6", progress=heard)
    assert heard.events == [
        ("start", "engine", 1, "engine"),
        ("advance", 1),
        ("finish", "built"),
    ]


def test_an_interrupt_calls_the_build_off_and_is_raised_after_it(build, script, tmp_path):
    script.phases = PHASES
    with pytest.raises(KeyboardInterrupt):
        build("10.3", progress=Interrupted())
    assert list(tmp_path.glob("engine.plan*")) == []


def test_a_release_that_was_not_checked_is_warned_of(tmp_path, model, install, make_card, caplog):
    install("10.7").__version__ = "10.9.0"
    with caplog.at_level(logging.WARNING, "deploy"):
        build_engine(model, make_card("10.9"), out=tmp_path / "e.plan", probe=lambda: ORIN)
    assert "TensorRT 10.9 is none of the releases whose API was checked" in caplog.text


@pytest.mark.parametrize("version", ["8.2.1", "9.3.0", "12.0.0"])
def test_a_generation_that_is_not_known_is_refused(model, install, make_card, tmp_path, version):
    install("8.6").__version__ = version
    card = make_card(version)
    with pytest.raises((TargetError, MissingDependencyError), match=version):
        build_engine(model, card, out=tmp_path / "e.plan", probe=lambda: ORIN)


def test_the_record_holds_what_built_the_engine(build, tmp_path, model):
    build("10.3")
    record = json.loads((tmp_path / "engine.plan.json").read_text())
    plan = (tmp_path / "engine.plan").read_bytes()
    assert record["engine_sha256"] == hashlib.sha256(plan).hexdigest()
    assert record["model_sha256"] == hashlib.sha256(model.read_bytes()).hexdigest()
    assert record["timing_cache_sha256"] == hashlib.sha256(b"measured").hexdigest()
    assert record["tensorrt_version"] == "10.3.0"
    assert record["device"]["compute_capability"] == "8.7"
    assert record["builder_flags"] == ["INT8", "FP16"]
    assert record["request"]["workspace_mib"] == 512
    assert (record["opset"], record["ir_version"], record["graph_flavour"]) == (17, 8, "fp32-typed")
    assert record["target"] == "jetson-orin"
    assert record["build"] is None
    layers = json.loads((tmp_path / "engine.plan.layers.json").read_text())
    assert len(layers["Layers"]) == 4


DLA_RELEASES = ("8.5", "8.6", "10.3", "10.7")


@pytest.fixture
def cache(tmp_path):
    path = tmp_path / "calibration.cache"
    path.write_bytes(write_cache({"x": 0.5}, (10, 3)))
    return path


@pytest.mark.parametrize("release", DLA_RELEASES)
def test_dla_reads_its_ranges_from_the_cache_and_leaves_the_rest_to_the_gpu(
    build, script, cache, release
):
    build(release, spec=EngineSpec(dla_core=1), calibration_cache=cache)
    asked = script.asked
    assert (asked["default_device_type"], asked["DLA_core"]) == ("DLA", 1)
    assert set(asked["flags"]) == {"INT8", "FP16", "GPU_FALLBACK"}
    calibrator = asked["int8_calibrator"]
    assert calibrator.read_calibration_cache() == cache.read_bytes()
    assert (calibrator.get_batch(["x"]), calibrator.get_batch_size()) == (None, 1)
    assert calibrator.write_calibration_cache(b"") is None
    assert type(calibrator).__mro__[1].__name__ == "IInt8EntropyCalibrator2"


@pytest.mark.parametrize(
    ("spec", "given", "error", "text"),
    [
        (EngineSpec(dla_core=0), False, InputError, "belong together"),
        (EngineSpec(), True, InputError, "belong together"),
        (EngineSpec(dla_core=2), True, TargetError, "no DLA core 2"),
    ],
)
def test_dla_is_asked_for_whole_or_not_at_all(build, script, cache, spec, given, error, text):
    with pytest.raises(error, match=text):
        build("10.3", spec=spec, calibration_cache=cache if given else None)
    assert script.made == []


def test_what_is_no_cache_is_refused_before_tensorrt_is_touched(build, script, tmp_path):
    (tmp_path / "other").write_text("hello")
    with pytest.raises(InputError, match="no calibration cache"):
        build("10.3", spec=EngineSpec(dla_core=0), calibration_cache=tmp_path / "other")
    assert script.made == []
