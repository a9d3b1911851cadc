"""`edgeq build --samples`: a sample set, an array or pictures of the user in place of synthetic samples."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgeq.core.samples import SampleSet


@pytest.fixture(scope="module")
def pictures(digits, tmp_path_factory) -> Path:
    """Return a folder of 20 pictures, some in folders whose names mean nothing."""
    folder = tmp_path_factory.mktemp("pictures")
    with zipfile.ZipFile(digits / "heldout.zip") as archive:
        names = [name for name in archive.namelist() if name.endswith(".png")][::18]
        for index, name in enumerate(names):
            place = folder / ("more" if index % 2 else ".") / f"{index:02}.png"
            place.parent.mkdir(exist_ok=True)
            place.write_bytes(archive.read(name))
    return folder


@pytest.fixture
def run(edgeq, digits, tiny, tmp_path):
    """Return a function that builds the digits network for the CPU with the samples given."""

    def build(samples: Path, *words: object, model: str = "digits_bn.onnx", out: str = "out"):
        common = ("--target", "cpu", "--preset", "unit", *tiny, "--samples", samples)
        return edgeq("build", digits / model, *common, *words, "--out", tmp_path / out)

    return build


def read_results(folder: Path) -> dict:
    return json.loads((folder / "results.json").read_text("utf-8"))


def test_pictures_are_trained_on_and_the_result_says_so(run, pictures, tmp_path):
    done = run(pictures)
    assert done.code == 0, done.err
    assert f"20 samples of {pictures.name} were given" in done.out
    assert "not zero-shot" in done.out
    found = SampleSet.load(tmp_path / "out" / "samples")
    first = np.asarray(Image.open(pictures / "00.png"), np.float32) / np.float32(255)
    np.testing.assert_array_equal(found.samples[0, 0], first)
    assert found.samples.shape == (20, 1, 16, 16)
    assert found.provenance == {"given": pictures.name}
    assert found.history == []
    page = (tmp_path / "out" / "report.html").read_text("utf-8")
    assert "on a sample set that was given" in page
    assert "without its training data" not in page


def test_labels_are_the_answers_of_the_teacher(run, pictures, digits, tmp_path):
    import onnxruntime

    assert run(pictures).code == 0
    found = SampleSet.load(tmp_path / "out" / "samples")
    session = onnxruntime.InferenceSession(digits / "digits_bn.onnx")
    (logits,) = session.run(None, {"input": found.samples})
    np.testing.assert_array_equal(found.labels, logits.argmax(1))


def test_an_array_and_the_pictures_it_holds_give_one_build(run, pictures, tmp_path):
    assert run(pictures).code == 0
    np.save(tmp_path / "same.npy", SampleSet.load(tmp_path / "out" / "samples").samples)
    done = run(tmp_path / "same.npy")
    assert done.code == 0, done.err
    assert "train" not in done.ran()


def test_a_set_of_synth_gives_the_bytes_of_a_build_that_makes_it_itself(build, edgeq, tmp_path):
    samples = build.folder / "samples"
    done = edgeq(*build.words, "--samples", samples, "--out", tmp_path / "out")
    assert done.code == 0, done.err
    name = "model.qdq.onnx"
    assert (tmp_path / "out" / name).read_bytes() == (build.folder / name).read_bytes()


def test_other_samples_are_another_build(run, pictures, tmp_path):
    assert run(pictures).code == 0
    digest = read_results(tmp_path / "out")["build"]["samples"]
    assert len(digest) == 64
    np.save(tmp_path / "other.npy", np.zeros((4, 1, 16, 16), np.float32))
    done = run(tmp_path / "other.npy")
    assert done.code == 3
    assert "another samples" in done.err


def test_a_folded_file_needs_no_statistics_then(run, pictures, tmp_path):
    done = run(pictures, model="digits_folded.onnx")
    assert done.code == 0, done.err
    assert read_results(tmp_path / "out")["build"]["recipe"]["name"] == "edgeq"


def test_the_dry_run_tells_of_them(run, pictures):
    done = run(pictures, "--dry-run")
    assert "samples: 20, given" in done.out
    assert "synthesize" not in done.out


@pytest.mark.parametrize(
    ("array", "told"),
    [
        (np.zeros((4, 16, 16), np.float32), "4 samples of 'input' 16x16 float32"),
        (np.zeros((4, 1, 16, 16)), "'input' 1x16x16 float64"),
        (np.zeros((0, 1, 16, 16), np.float32), "0 samples"),
        (np.full((4, 1, 16, 16), np.nan, np.float32), "NaN or infinity in 'input'"),
        (np.array([None]), "cannot read s.npy"),
        (np.float32(3), "1 samples of 'input'"),
    ],
    ids=["shape", "dtype", "none", "nan", "objects", "number"],
)
def test_an_array_that_does_not_fit_is_refused(run, tmp_path, array, told):
    np.save(tmp_path / "s.npy", array, allow_pickle=True)
    done = run(tmp_path / "s.npy")
    assert done.code == 3
    assert told in done.err
    assert not (tmp_path / "out").exists()


def test_a_file_that_is_no_array_is_refused(run, tmp_path):
    (tmp_path / "s.npy").write_bytes(b"PK\x03\x04 and no zip")
    done = run(tmp_path / "s.npy")
    assert done.code == 3
    assert "cannot read s.npy" in done.err


@pytest.mark.parametrize("label", [-1, 10])
def test_labels_of_another_network_are_refused(run, tmp_path, label):
    x = np.zeros((4, 1, 16, 16), np.float32)
    labels = np.array([0, 9, label, 1])
    SampleSet(input_name="input", samples=x, labels=labels, provenance={}).save(tmp_path / "set")
    done = run(tmp_path / "set")
    assert done.code == 3
    assert f"labels from {min(0, label)} to {max(9, label)}" in done.err
    assert "the model has 10 classes" in done.err
    assert not (tmp_path / "out").exists()


def test_files_that_are_no_pictures_are_named(run, tmp_path):
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "notes.txt").write_text("hello")
    done = run(tmp_path / "set")
    assert (done.code, "files are no pictures: notes.txt" in done.err) == (3, True)


@pytest.mark.parametrize("made", [True, False], ids=["empty", "missing"])
def test_no_pictures_are_told(run, tmp_path, made):
    if made:
        (tmp_path / "set").mkdir()
    done = run(tmp_path / "set")
    assert done.code == 3
    assert "no pictures" in done.err
