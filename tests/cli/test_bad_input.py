"""What is wrong with the words, the files or the folder is said in three parts, and nothing is left behind."""

from __future__ import annotations

import resource
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import onnx
import pytest
from onnx import numpy_helper

STAT = "strided.first.1.running_var"


@dataclass(frozen=True, kw_only=True)
class Case:
    """One fault.

    Attributes:
        name: of the test.
        says: what the message must hold.
        make: writes the model's file; None takes the example as it is.
        words: after the model; a target is added where there is none.
        code: the exit code.
        names_the_file: whether the message tells which file it is about.
    """

    name: str
    says: tuple[str, ...]
    make: Callable[[onnx.ModelProto, Path], None] | None = None
    words: tuple[str, ...] = ()
    code: int = 3
    names_the_file: bool = False


def bytes_of(data: bytes) -> Callable[[onnx.ModelProto, Path], None]:
    return lambda model, path: path.write_bytes(data) and None


def changed(change: Callable[[onnx.ModelProto], None]) -> Callable[[onnx.ModelProto, Path], None]:
    def make(model: onnx.ModelProto, path: Path) -> None:
        change(model)
        path.write_bytes(model.SerializeToString())

    return make


def truncate(model: onnx.ModelProto, path: Path) -> None:
    data = model.SerializeToString()
    path.write_bytes(data[: len(data) // 2])


def set_value(name: str, value: float) -> Callable[[onnx.ModelProto, Path], None]:
    """Put `value` into the middle of the initializer `name`."""

    def change(model: onnx.ModelProto) -> None:
        (item,) = [item for item in model.graph.initializer if item.name == name]
        array = numpy_helper.to_array(item).copy()
        array.reshape(-1)[array.size // 2] = value
        item.CopyFrom(numpy_helper.from_array(array, name))

    return changed(change)


def external(location: str) -> Callable[[onnx.ModelProto, Path], None]:
    """Store a weight elsewhere, in a file that is not there or must not be read."""

    def change(model: onnx.ModelProto) -> None:
        (item,) = [item for item in model.graph.initializer if item.name == "classifier.weight"]
        item.ClearField("raw_data")
        item.data_location = onnx.TensorProto.EXTERNAL
        item.external_data.add(key="location", value=location)

    return changed(change)


def open_axes(model: onnx.ModelProto) -> None:
    for axis in (2, 3):
        model.graph.input[0].type.tensor_type.shape.dim[axis].dim_param = f"size_{axis}"
    del model.graph.value_info[:]


def without_layers() -> onnx.ModelProto:
    return onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> g (float[N,3,8,8] x) => (float[N,3,8,8] y) { y = Identity (x) }'
    )


def make_unknown(model: onnx.ModelProto) -> None:
    for node in model.graph.node:
        if node.op_type == "Relu":
            node.op_type = "Bernoulli"


def raise_opset(model: onnx.ModelProto) -> None:
    model.opset_import[0].version = 99


CASES = [
    Case(
        name="nothing to quantize",
        says=("nothing in the model can be quantized", "edgeq explain model.onnx --target cpu"),
        make=lambda model, path: onnx.save(without_layers(), path),
        words=("--recipe", "leaves"),
    ),
    Case(
        name="no such file",
        make=lambda model, path: None,
        says=("there is no such model",),
        names_the_file=True,
    ),
    Case(
        name="a text file",
        make=bytes_of(b"import torch\n" * 9),
        says=("no ONNX model, but a text file", "torch.onnx.export"),
        names_the_file=True,
    ),
    Case(
        name="a PyTorch checkpoint",
        make=bytes_of(b"PK\x03\x04" + bytes(99)),
        says=("no ONNX model, but a zip archive", ".pt"),
        names_the_file=True,
    ),
    Case(name="an empty file", make=bytes_of(b""), says=("is empty",), names_the_file=True),
    Case(name="a truncated file", make=truncate, says=("cut short",), names_the_file=True),
    Case(
        name="an empty graph",
        make=changed(lambda model: model.graph.ClearField("node")),
        says=("the graph is empty", "no nodes"),
        names_the_file=True,
    ),
    Case(
        name="missing external data",
        make=external("weights.bin"),
        says=("'classifier.weight' (weights.bin)", "missing"),
        names_the_file=True,
    ),
    Case(
        name="external data above the folder",
        make=external("../weights.bin"),
        says=("outside the model's folder", "'classifier.weight'"),
        names_the_file=True,
    ),
    Case(
        name="external data at an absolute path",
        make=external("/etc/hostname"),
        says=("outside the model's folder", "/etc/hostname"),
        names_the_file=True,
    ),
    Case(
        name="NaN in a weight",
        make=set_value("classifier.weight", float("nan")),
        says=("'classifier.weight' (1 NaN, 0 infinite, of 320)",),
        names_the_file=True,
    ),
    Case(
        name="NaN in a mean",
        make=set_value(STAT.replace("var", "mean"), float("nan")),
        says=("running_mean' (1 NaN",),
        names_the_file=True,
    ),
    Case(
        name="NaN in a variance",
        make=set_value(STAT, float("nan")),
        says=("variance is negative or NaN", "/strided/first/first.1/BatchNormalization"),
        names_the_file=True,
    ),
    Case(
        name="a negative variance",
        make=set_value(STAT, -0.5),
        says=("variance is negative or NaN", "1 of 16 channels"),
        names_the_file=True,
    ),
    Case(
        name="an unknown operator",
        make=changed(make_unknown),
        says=("Bernoulli", "'/Relu_output_0'", "'/last/Relu_1_output_0'"),
    ),
    Case(
        name="an opset of the future",
        make=changed(raise_opset),
        says=("opset 99",),
        names_the_file=True,
    ),
    Case(
        name="open spatial axes without --shape",
        make=changed(open_axes),
        says=("'input'", "--shape input:"),
    ),
    Case(
        name="an unknown target",
        words=("--target", "jetson-orn"),
        says=("unknown target 'jetson-orn'", "did you mean jetson-orin", "rtx-4090"),
        code=4,
    ),
    Case(
        name="a target without INT8",
        words=("--target", "jetson-tx2"),
        says=("no INT8 arithmetic", "in FP16", "--target jetson-xavier-nx"),
        code=4,
    ),
    Case(
        name="an unknown recipe",
        words=("--recipe", "edqeg"),
        says=("unknown recipe 'edqeg'", "did you mean edgeq", "noise"),
    ),
    Case(
        name="an unknown preset",
        words=("--preset", "imagnet"),
        says=("imagnet", "did you mean imagenet"),
    ),
    Case(
        name="a preset for other channels",
        words=("--preset", "imagenet"),
        says=("imagenet", "1 channel"),
    ),
    Case(
        name="an unknown figure",
        words=("--set", "training.step=3"),
        says=("--set training.step", "did you mean training.steps"),
    ),
    Case(
        name="a figure that is no number",
        words=("--set", "training.flip=perhaps"),
        says=("--set training.flip=perhaps", "true or false"),
    ),
    Case(
        name="a figure out of range",
        words=("--set", "training.temperature=0"),
        says=("'temperature' is 0", "greater than 0"),
    ),
    Case(
        name="a figure that is set twice",
        words=("--set", "training.flip=true", "--set", "training.flip=false"),
        says=("'training.flip' is set twice", "mend: pass one --set for each key"),
    ),
    Case(name="too many bits", words=("--bits", "w9a8"), says=("'w9a8'", "wNaM", "2 to 8")),
    Case(name="too few bits", words=("--bits", "w8a1"), says=("'w8a1'", "wNaM", "2 to 8")),
    Case(
        name="a shape of another input",
        words=("--shape", "x:1x1x16x16"),
        says=("--shape names 'x'", "input"),
    ),
    Case(
        name="a shape that contradicts the file",
        words=("--shape", "input:1x1x8x8"),
        says=("--shape", "input"),
    ),
    Case(
        name="pictures that are not there",
        words=("--eval", "nowhere"),
        says=("no pictures at nowhere", "--eval"),
    ),
    Case(
        name="pictures at a path that is too long",
        words=("--eval", "x" * 300),
        says=("--eval cannot be read: File name too long",),
    ),
    Case(
        name="pictures of other classes",
        words=("--eval", "two_classes.zip"),
        says=("2 class folders, but the model has 10 classes",),
    ),
    Case(
        name="a file in the place of the output folder",
        words=("--out", "a_file"),
        says=("the output folder is a file",),
    ),
    Case(
        name="an output folder below a file",
        words=("--out", "a_file/out"),
        says=("the output folder cannot be used: Not a directory",),
    ),
    Case(
        name="an output folder whose name is too long",
        words=("--out", "x" * 300),
        says=("the output folder cannot be used: File name too long",),
    ),
    Case(
        name="an output folder with foreign files",
        words=("--out", "mine", "--overwrite"),
        says=("holds files that are not of an edgeq build",),
    ),
]


@pytest.fixture
def place(digits, tmp_path, monkeypatch) -> Path:
    """Return the folder in which a command runs: the models, and what stands in its way."""
    shutil.copy(digits / "digits_bn.onnx", tmp_path / "model.onnx")
    (tmp_path / "a_file").write_text("mine")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("mine")
    with zipfile.ZipFile(tmp_path / "two_classes.zip", "w") as archive:
        archive.writestr("cat/1.png", b"")
        archive.writestr("dog/1.png", b"")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def tree(folder: Path) -> dict[str, bytes | None]:
    """Return every file of a folder with its bytes, and every folder."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


def require_message(outcome, *parts: str) -> None:
    """Check that an error has its three parts, and no trace."""
    error = outcome.err[outcome.err.index("error: ") :]
    assert outcome.out == ""
    assert "\n  why:  " in error
    assert "\n  mend: " in error
    assert "Traceback" not in error
    assert "internal error" not in outcome.err
    assert [part for part in parts if part not in error] == []


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_what_is_wrong_is_said_before_any_work_and_nothing_is_left(edgeq, tiny, place, case):
    if case.make is not None:
        model = onnx.load("model.onnx")
        Path("model.onnx").unlink()
        case.make(model, Path("model.onnx"))
    before = tree(place)
    target = () if "--target" in case.words else ("--target", "cpu")
    done = edgeq("build", "model.onnx", *target, *tiny, *case.words)
    assert done.code == case.code
    require_message(done, *case.says, *(["file 'model.onnx'"] if case.names_the_file else []))
    assert not {"synthesize", "train"} & set(done.stages())
    assert tree(place) == before


@pytest.mark.parametrize(
    ("words", "code"),
    [(("model.onnx", "--target", "cpv"), 4), (("a_file", "--target", "cpu"), 3)],
    ids=["target", "file"],
)
def test_a_process_ends_with_the_code_and_the_message(edgeq_process, place, words, code):
    done = edgeq_process("build", *words)
    assert done.code == code
    require_message(done)


def test_another_build_is_refused_and_stays_untouched(edgeq, finished):
    before = tree(finished.folder)
    done = edgeq(*finished.words, "--bits", "w4a8", "--out", finished.folder)
    assert done.code == 3
    require_message(done, "holds another build", "another bits", "--overwrite")
    assert tree(finished.folder) == before


def test_another_build_is_replaced_where_that_is_asked_for(edgeq, finished, content):
    before = content(finished.folder)
    (finished.folder / "samples" / "left.txt").write_text("of the old build")
    words = (*finished.words, "--bits", "w4a8", "--out", finished.folder, "--overwrite")
    done = edgeq(*words)
    assert done.code == 0, done.err
    after = content(finished.folder)
    assert set(after) == set(before)
    assert after["model.qdq.onnx"] != before["model.qdq.onnx"]


def test_a_build_that_is_refused_does_not_replace_another(edgeq, finished):
    before = tree(finished.folder)
    words = ("--seed", "1", "--eval", "nowhere", "--out", finished.folder, "--overwrite")
    assert edgeq(*finished.words, *words).code == 3
    assert tree(finished.folder) == before


def limit_files(size: int) -> Callable[[], None]:
    """Return what makes every write past `size` bytes of a file fail, as on a full disk."""
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


# The first limit stops the manifest, the second each batch of samples and then the BN table.
@pytest.mark.parametrize("size", [500, 6_000])
def test_a_full_disk_leaves_nothing_of_a_build_of_which_nothing_was_finished(
    edgeq_process, build, tmp_path, size
):
    out = tmp_path / "deep" / "out"
    done = edgeq_process(*build.words, "--out", out, preexec=limit_files(size))
    assert done.code == 3
    require_message(done, "no room to write", "free some space")
    assert tree(tmp_path) == {}


def test_a_full_disk_keeps_finished_batches_of_samples(edgeq_process, build, content, tmp_path):
    done = edgeq_process(*build.words, "--out", tmp_path / "out", preexec=limit_files(14_000))
    assert done.code == 3
    require_message(done, "no room to write samples.npy", "free some space")
    resumed = edgeq_process(*build.words, "--out", tmp_path / "out")
    assert "2 of 2 batches from an interrupted run" in resumed.err
    assert content(tmp_path / "out") == content(build.folder)


def test_a_full_disk_keeps_what_was_finished_and_the_build_goes_on(
    edgeq_process, build, content, tmp_path
):
    done = edgeq_process(*build.words, "--out", tmp_path / "out", preexec=limit_files(25_000))
    assert done.code == 3
    require_message(done, "no room to write trained.safetensors", "finished stages are kept")
    assert not list(tmp_path.rglob(".*"))
    resumed = edgeq_process(*build.words, "--out", tmp_path / "out")
    stages = ["train", "write", "verify", "evaluate", "bundle", "results", "report"]
    assert resumed.ran() == stages
    assert content(tmp_path / "out") == content(build.folder)
