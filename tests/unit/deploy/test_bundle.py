from __future__ import annotations

import dataclasses
import errno
import json
import os
import shlex
import subprocess
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from polygraphy.json import load_json

from deploy.board_files import board_files
from deploy.bundle import BundleResult, _engine_request, write_bundle
from deploy.bundle_texts import check_line
from deploy.cards import load_card
from deploy.onnxrt import run_onnx
from deploy.probes import make_probes
from deploy.sealed import RESULTS
from deploy.trtexec import BatchRange
from edgeq.core.errors import CalibError, EdgeqBug, InputError, TargetError

PROBES = {"probes/probes.json", *(f"probes/{item.name}.onnx" for item in make_probes())}
ENGINE_FILES = {
    *board_files(),
    *PROBES,
    "device_check.sh",
    "README.txt",
    "SHA256SUMS",
    "build.sh",
    "bundle.json",
    "inputs.json",
    "load_inputs.py",
    "model.qdq.onnx",
    "outputs.json",
}


@pytest.fixture
def make_bundle(tmp_path, qdq, teacher, samples, input_spec, make_card):
    def make(name="bundle", **changes) -> BundleResult:
        options = {
            "qdq_model": qdq,
            "teacher_model": teacher,
            "card": make_card(),
            "samples": samples,
            "inputs": [input_spec],
            "provenance": {"bits": "w8a4", "tensor": "/conv1/Conv_output_0"},
        }
        return write_bundle(tmp_path / "out" / name, **{**options, **changes})

    return make


@pytest.fixture
def cpu_card(make_card):
    return make_card("1.18", name="cpu", title="CPU", runtime="onnxruntime", stack="", notes=())


def run_script(folder: Path, script: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["sh", str(folder / script)],
        capture_output=True,
        text=True,
        env={"PATH": os.environ["PATH"], **env},
        cwd="/",
        check=False,
    )


def names_in(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_the_bundle_has_its_files_and_nothing_else(make_bundle, tmp_path):
    result = make_bundle()
    assert set(result.files) == ENGINE_FILES
    assert names_in(tmp_path / "out" / "bundle") == ENGINE_FILES
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["bundle"]


def test_inputs_and_outputs_are_the_samples_and_the_teachers_answers(
    make_bundle, tmp_path, samples, teacher
):
    assert make_bundle().iterations == 16
    feeds = load_json(str(tmp_path / "out/bundle/inputs.json"))
    got = np.concatenate([feed["x"] for feed in feeds])
    np.testing.assert_array_equal(got, samples.samples[:16])
    results = load_json(str(tmp_path / "out/bundle/outputs.json"))
    answers = np.concatenate([item["logits"] for item in results["teacher"]])
    want = run_onnx(teacher, {"x": samples.samples[:16]})["logits"]
    np.testing.assert_allclose(answers, want, atol=1e-6)


@pytest.mark.parametrize(("batch", "calls", "rows"), [("1", 16, 1), ("4", 4, 4), ("32", 1, 32)])
def test_a_fixed_batch_is_the_size_of_a_call(
    make_bundle, make_teacher, make_qdq, tmp_path, batch, calls, rows
):
    result = make_bundle(qdq_model=make_qdq(batch), teacher_model=make_teacher(batch))
    feeds = load_json(str(tmp_path / "out/bundle/inputs.json"))
    assert (result.iterations, len(feeds), len(feeds[0]["x"])) == (calls, calls, rows)


def test_a_call_is_no_smaller_than_the_engine_takes(make_bundle, tmp_path):
    assert make_bundle(batch=BatchRange(min=2, opt=4, max=8)).iterations == 8
    record = json.loads((tmp_path / "out/bundle/bundle.json").read_text())
    (shape,) = record["engine"]["shapes"]
    assert shape == {"input": "x", "min": [2, 3, 8, 8], "opt": [4, 3, 8, 8], "max": [8, 3, 8, 8]}
    assert "--minShapes=x:2x3x8x8" in (tmp_path / "out/bundle/README.txt").read_text()


def test_the_tolerance_covers_the_quantized_model_and_not_much_more(
    make_bundle, samples, teacher, qdq
):
    tolerance = make_bundle().tolerances["logits"]
    feed = {"x": samples.samples[:16]}
    error = np.abs(run_onnx(teacher, feed)["logits"] - run_onnx(qdq, feed)["logits"]).max()
    assert error < tolerance < 3 * error


def test_the_record_says_what_the_host_knows(make_bundle, tmp_path):
    make_bundle()
    record = json.loads((tmp_path / "out/bundle/bundle.json").read_text())
    assert record["target"] == "orin"
    assert record["runtime_version"] == "10.3"
    assert record["graph_flavour"] == "fp32-typed"
    assert record["opsets"] == {"ai.onnx": 17}
    assert record["verified_on_hardware"] is False
    assert record["provenance"]["bits"] == "w8a4"


def test_no_text_holds_a_path_of_the_host(make_bundle, tmp_path):
    make_bundle()
    for path in map((tmp_path / "out/bundle").joinpath, ENGINE_FILES):
        assert str(tmp_path).encode() not in path.read_bytes()
        assert str(Path.home()).encode() not in path.read_bytes() or str(Path.home()) == "/"


def test_a_path_of_the_host_in_the_provenance_is_a_bug(make_bundle, tmp_path):
    with pytest.raises(EdgeqBug, match="path of the host"):
        make_bundle(provenance={"source": [{"model": str(tmp_path)}]})
    assert not (tmp_path / "out").exists()


def test_the_same_inputs_give_the_same_bytes(make_bundle, tmp_path):
    make_bundle("a")
    make_bundle("b")
    for name in ENGINE_FILES:
        assert (tmp_path / "out/a" / name).read_bytes() == (tmp_path / "out/b" / name).read_bytes()


def test_an_earlier_bundle_is_replaced(make_bundle, tmp_path):
    make_bundle()
    (tmp_path / "out/bundle/model.plan").write_text("engine of the old model")
    make_bundle()
    assert names_in(tmp_path / "out/bundle") == ENGINE_FILES
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["bundle"]


def test_what_a_killed_run_left_is_removed(make_bundle, tmp_path):
    (tmp_path / "out/.bundle.part").mkdir(parents=True)
    (tmp_path / "out/.bundle.part/junk").write_text("x")
    make_bundle()
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["bundle"]
    assert not (tmp_path / "out/bundle/junk").exists()


def test_a_folder_that_is_no_bundle_is_kept(make_bundle, tmp_path):
    (tmp_path / "out/bundle").mkdir(parents=True)
    (tmp_path / "out/bundle/precious").write_text("x")
    with pytest.raises(InputError, match="is no bundle"):
        make_bundle()
    assert (tmp_path / "out/bundle/precious").read_text() == "x"


def test_a_full_disk_leaves_the_earlier_bundle_whole(make_bundle, tmp_path, monkeypatch):
    make_bundle()
    folder = tmp_path / "out/bundle"
    before = {name: (folder / name).read_bytes() for name in names_in(folder)}

    def fail(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("edgeq.core.files.os.fsync", fail)
    with pytest.raises(InputError, match="no room"):
        make_bundle()
    after = {name: (folder / name).read_bytes() for name in names_in(folder)}
    assert after == before
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["bundle"]


def test_a_parent_that_is_a_file_is_an_input_error(make_bundle, tmp_path):
    (tmp_path / "out").write_text("x")
    with pytest.raises(InputError, match="cannot write bundle"):
        make_bundle()


def test_an_empty_sample_set_is_refused(make_bundle, samples):
    with pytest.raises(CalibError, match="empty"):
        make_bundle(samples=dataclasses.replace(samples, samples=samples.samples[:0]))


def test_a_target_without_int8_gets_no_bundle(make_bundle, make_card, tmp_path):
    with pytest.raises(TargetError):
        make_bundle(card=make_card("8.2.1", formats=()))
    assert not (tmp_path / "out").exists()


def test_sha256sum_accepts_the_checksums(make_bundle, tmp_path):
    make_bundle()
    done = subprocess.run(
        ["sha256sum", "-c", "SHA256SUMS"],
        cwd=tmp_path / "out/bundle",
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.count(": OK") == len(ENGINE_FILES) - 1


def test_the_readme_says_what_to_do_and_that_nothing_was_tried(make_bundle, tmp_path):
    make_bundle()
    text = (tmp_path / "out/bundle/README.txt").read_text()
    assert "NOT VERIFIED ON HARDWARE" in text
    assert "./build.sh" in text
    assert "trtexec --onnx=model.qdq.onnx" in text
    assert "polygraphy run model.plan --model-type engine --trt" in text


@pytest.mark.parametrize("name", ["model.qdq.onnx", "deploy/board/run.py", "bundle.json"])
def test_a_changed_file_is_refused_and_nothing_runs(make_bundle, tmp_path, name):
    make_bundle()
    folder = tmp_path / "out/bundle"
    with (folder / name).open("ab") as file:
        file.write(b"x")
    done = run_script(folder, "build.sh", PYTHON=str(tmp_path / "python"))
    assert done.returncode == 3
    assert "damaged or was changed" in done.stderr
    assert name in done.stdout + done.stderr


def test_a_missing_file_is_refused(make_bundle, tmp_path):
    make_bundle()
    (tmp_path / "out/bundle/deploy/board/judge.py").unlink()
    assert run_script(tmp_path / "out/bundle", "build.sh").returncode == 3


@pytest.mark.parametrize(
    "name",
    [
        *("numpy.py", "tensorrt/__init__.py", "deploy/board/json.py", "deploy/__pycache__/x.pyc"),
        *("a b.so", "numpy.py\nbuild.sh", "__pycache__/json.pyc"),
    ],
)
def test_a_file_that_was_added_is_refused_and_nothing_runs(make_bundle, tmp_path, name):
    make_bundle()
    folder = tmp_path / "out/bundle"
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text("")
    done = run_script(folder, "build.sh", PYTHON=str(tmp_path / "python"))
    assert done.returncode == 3
    assert "what does not belong to it" in done.stderr
    assert f"    {name.splitlines()[0]}\n" in done.stderr


@pytest.mark.parametrize("name", ["numpy", "deploy", "model.qdq.onnx", "model.plan"])
def test_a_link_is_refused_also_to_the_same_content(make_bundle, tmp_path, name):
    make_bundle()
    folder = tmp_path / "out/bundle"
    if not (folder / name).exists():
        (tmp_path / name).mkdir()
    else:
        (folder / name).rename(tmp_path / name)
    (folder / name).symlink_to(tmp_path / name)
    done = run_script(folder, "build.sh", PYTHON=str(tmp_path / "python"))
    assert done.returncode == 3
    assert f"    ./{name}\n" in done.stderr


def test_a_line_of_the_seal_that_is_none_is_refused(make_bundle, tmp_path):
    make_bundle()
    seal = tmp_path / "out/bundle/SHA256SUMS"
    seal.write_text("z" + seal.read_text()[1:])
    assert run_script(tmp_path / "out/bundle", "build.sh").returncode == 3


def test_a_seal_that_was_cut_short_vouches_for_no_other_file(make_bundle, tmp_path):
    make_bundle()
    seal = tmp_path / "out/bundle/SHA256SUMS"
    seal.write_text("".join(seal.read_text().splitlines(keepends=True)[:3]))
    done = run_script(tmp_path / "out/bundle", "build.sh")
    assert done.returncode == 3
    assert "deploy/board/run.py" in done.stderr


@pytest.mark.parametrize(
    "name",
    [*RESULTS, ".model.plan.x1.part", ".DS_Store", "__pycache__/load_inputs.cpython-310.pyc"],
)
def test_what_runs_leave_behind_is_no_reason_to_refuse(make_bundle, tmp_path, name):
    make_bundle()
    folder = tmp_path / "out/bundle"
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text("")
    done = run_script(folder, "build.sh", PYTHON="python-of-nowhere")
    assert done.returncode == 5


def test_a_machine_without_python_is_told_what_to_install(make_bundle, tmp_path):
    make_bundle()
    done = run_script(tmp_path / "out/bundle", "build.sh", PYTHON="python-of-nowhere")
    assert done.returncode == 5
    assert "apt-get install python3" in done.stderr


def test_a_python_without_numpy_is_told_what_to_install(make_bundle, tmp_path):
    make_bundle()
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\ncase "$2" in *numpy*) exit 1;; esac\n')
    python.chmod(0o755)
    done = run_script(tmp_path / "out/bundle", "build.sh", PYTHON=str(python))
    assert done.returncode == 5
    assert "python3-numpy" in done.stderr


@pytest.fixture
def make_named(make_bundle, input_spec, samples, qdq, teacher, tmp_path):
    """Return a function that makes a bundle whose input has the given name, and returns its README."""

    def make(name: str) -> str:
        for model in (qdq, teacher):
            model.graph.input[0].name = name
            for node in model.graph.node:
                node.input[:] = [name if item == "x" else item for item in node.input]
        make_bundle(
            inputs=[dataclasses.replace(input_spec, name=name)],
            samples=dataclasses.replace(samples, input_name=name),
        )
        return (tmp_path / "out/bundle/README.txt").read_text()

    return make


@pytest.mark.parametrize("name", ["a,b", "a'b"])
def test_an_input_name_that_trtexec_cannot_read_leaves_its_lines_out(make_named, name):
    text = make_named(name)
    assert "There is no line for trtexec" in text
    assert "trtexec --" not in text


@pytest.mark.parametrize("name", ["x$(touch hacked)", "x; touch hacked", 'x"y', "a b"])
def test_a_hostile_input_name_stays_one_word_of_the_trtexec_line(make_named, name):
    text = make_named(name)
    (line,) = [line for line in text.splitlines() if "trtexec --onnx" in line]
    assert f"--minShapes={name}:1x3x8x8" in shlex.split(line)


def test_outputs_that_look_like_options_share_the_widest_of_their_limits(make_card):
    line = check_line(make_card(), tolerances={"-a": 0.1, "-b": 0.2, "c": 0.3})
    assert line[line.index("--atol") + 1 :] == ["0.2", "c:0.3"]


def test_a_script_works_on_its_own_folder_and_on_none_of_cdpath(make_bundle, tmp_path):
    make_bundle()
    (tmp_path / "other" / "bundle").mkdir(parents=True)
    done = subprocess.run(
        ["sh", "bundle/build.sh"],
        env={"PATH": os.environ["PATH"], "CDPATH": f"{tmp_path}/other", "PYTHON": "no-python"},
        cwd=tmp_path / "out",
        check=False,
    )
    assert done.returncode == 5


def test_the_scripts_are_executable_and_plain_posix_sh(make_bundle, tmp_path):
    make_bundle()
    script = tmp_path / "out/bundle/build.sh"
    assert os.access(script, os.X_OK)
    assert script.read_text().startswith("#!/bin/sh\n")
    subprocess.run(["sh", "-n", str(script)], check=True)


def test_a_cpu_target_gets_a_run_script_and_no_engine(make_bundle, tmp_path, cpu_card):
    result = make_bundle(card=cpu_card)
    assert set(result.files) == (
        ENGINE_FILES - {"build.sh", "device_check.sh", *board_files(), *PROBES}
    ) | {"run.sh"}
    assert "No engine is needed" in (tmp_path / "out/bundle/README.txt").read_text()


def test_the_model_in_the_bundle_is_the_model_given(make_bundle, tmp_path, qdq):
    make_bundle()
    assert onnx.load(tmp_path / "out/bundle/model.qdq.onnx") == qdq


def test_the_result_survives_json(make_bundle):
    result = make_bundle()
    assert BundleResult.from_dict(result.to_dict()) == result


@pytest.mark.parametrize(("half", "is_weak"), [(False, True), (True, False)])
def test_a_graph_typed_in_fp16_is_built_with_strong_typing(qdq, half, is_weak):
    if half:
        for item in qdq.graph.initializer:
            if item.name.endswith("_scale"):
                value = numpy_helper.to_array(item).astype(np.float16)
                item.CopyFrom(numpy_helper.from_array(value, item.name))
    request = _engine_request(qdq, load_card("jetson-orin"), [], BatchRange())
    assert request["is_weak"] is is_weak
