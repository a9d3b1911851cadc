"""Reading: a sound file comes through unchanged, every fault of a bad one is one clear error."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import random
import tracemalloc
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from edgeq.core.errors import EdgeqError, InputError, ModelError
from edgeq.graph.read import LoadedModel, load_any_model, load_model
from edgeq.graph.view import GraphView

Edit = Callable[[onnx.ModelProto], object]


def floats(name: str, *shape: int) -> onnx.TensorProto:
    values = np.random.default_rng(len(name)).uniform(0.5, 1.5, shape).astype(np.float32)
    return numpy_helper.from_array(values, name)


def make_model() -> onnx.ModelProto:
    """Conv, BatchNormalization, Relu, GlobalAveragePool, Flatten, Gemm; 9 initializers, a Constant among the nodes."""
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("BatchNormalization", ["c", "g", "b", "m", "v"], ["n"]),
        helper.make_node("Relu", ["n"], ["r"]),
        helper.make_node("Constant", [], ["k"], value=floats("", 1)),
        helper.make_node("Mul", ["r", "k"], ["s"]),
        helper.make_node("GlobalAveragePool", ["s"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("Gemm", ["f", "fc"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 5])],
        [floats("w", 4, 3, 3, 3), *(floats(name, 4) for name in "gbmv"), floats("fc", 4, 5)],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def initializer(model: onnx.ModelProto, name: str) -> onnx.TensorProto:
    return next(item for item in model.graph.initializer if item.name == name)


def set_values(model: onnx.ModelProto, name: str, values: np.ndarray) -> None:
    initializer(model, name).CopyFrom(numpy_helper.from_array(values.astype(np.float32), name))


def save(model: onnx.ModelProto, folder: Path, name: str = "model.onnx") -> Path:
    path = folder / name
    path.write_bytes(model.SerializeToString())
    return path


def save_external(folder: Path, *, attributes: bool = False) -> Path:
    """Save the model with the values of its initializers (and Constant nodes) in `weights.bin`."""
    path = folder / "model.onnx"
    onnx.save_model(
        make_model(),
        path,
        save_as_external_data=True,
        location="weights.bin",
        size_threshold=0,
        convert_attribute=attributes,
    )
    return path


def edit_external(path: Path, name: str, **entries: str) -> None:
    """Change the external_data entries of one initializer in the file."""
    model = onnx.load(path, load_external_data=False)
    for item in initializer(model, name).external_data:
        if item.key in entries:
            item.value = entries[item.key]
    path.write_bytes(model.SerializeToString())


# A sound file


def test_a_sound_file_is_loaded_as_it_is_and_its_shapes_are_inferred(tmp_path: Path) -> None:
    path = save(make_model(), tmp_path)
    loaded = load_model(path)
    assert isinstance(loaded, LoadedModel)
    assert loaded.model.SerializeToString() == path.read_bytes()
    assert {item.name for item in loaded.inferred.graph.value_info} >= {"c", "n", "r", "p", "f"}
    assert loaded.digest == hashlib.sha256(path.read_bytes()).hexdigest()
    assert loaded.size_bytes == path.stat().st_size
    assert loaded.path == path


def test_nodes_in_any_order_are_sorted_and_that_is_told(tmp_path: Path) -> None:
    model = make_model()
    sound = [node.output[0] for node in model.graph.node]
    reverse_nodes(model)
    loaded = load_model(save(model, tmp_path))
    assert sorted(node.output[0] for node in loaded.model.graph.node) == sorted(sound)
    onnx.checker.check_model(loaded.model, full_check=True)
    assert "in no running order" in loaded.findings[0]
    assert load_any_model(loaded.path) == loaded.model


def test_shapes_behind_a_slice_of_computed_bounds_are_inferred(
    parse_graph: Callable[..., onnx.ModelProto], tmp_path: Path
) -> None:
    """As torch.onnx.export writes unflatten; unless the bounds are stored, the inference takes the whole shape."""
    model = parse_graph(
        """g (float[N,4,6] x) => (float[a,b,c,d] y)
        <int64[1] minus = {-1}, int64[1] rank = {3}, int64[1] zero = {0}, int64[2] parts = {2,3}>
        { s = Shape(x) total = Add(minus, rank) end = Mod(total, rank) head = Slice(s, zero, end)
          sizes = Concat<axis=0>(head, parts) r = Reshape(x, sizes) y = Relu(r) }""",
        check=False,
    )
    inferred = GraphView(load_model(save(model, tmp_path)).inferred)
    assert inferred.shape("r") == (None, 4, 2, 3)


@pytest.mark.parametrize("attributes", [False, True], ids=["initializers", "constants-too"])
def test_external_data_are_read_into_the_model(tmp_path: Path, attributes: bool) -> None:
    path = save_external(tmp_path, attributes=attributes)
    loaded = load_model(path)
    assert loaded.model == make_model()
    assert loaded.size_bytes == path.stat().st_size + (tmp_path / "weights.bin").stat().st_size


def test_the_digest_changes_with_the_external_file(tmp_path: Path) -> None:
    path = save_external(tmp_path)
    before = load_model(path).digest
    data = bytearray((tmp_path / "weights.bin").read_bytes())
    data[0] ^= 1
    (tmp_path / "weights.bin").write_bytes(data)
    assert load_model(path).digest != before


def test_external_data_in_a_folder_below_are_read(tmp_path: Path) -> None:
    path = save_external(tmp_path)
    (tmp_path / "below").mkdir()
    (tmp_path / "weights.bin").rename(tmp_path / "below" / "weights.bin")
    for item in make_model().graph.initializer:
        edit_external(path, item.name, location="below/weights.bin")
    assert load_model(path).model == make_model()


def test_a_subgraph_may_read_tensors_of_the_graph_around_it(tmp_path: Path) -> None:
    model = make_model()
    branch = helper.make_graph(
        [helper.make_node("Abs", ["y"], ["inner"])],
        "branch",
        [],
        [helper.make_tensor_value_info("inner", TensorProto.FLOAT, None)],
    )
    other = helper.make_graph(
        [helper.make_node("Neg", ["y"], ["inner2"])],
        "other",
        [],
        [helper.make_tensor_value_info("inner2", TensorProto.FLOAT, None)],
    )
    model.graph.node.append(helper.make_node("ReduceMax", ["y"], ["top"], keepdims=0))
    model.graph.node.append(helper.make_node("Cast", ["top"], ["yes"], to=TensorProto.BOOL))
    model.graph.node.append(
        helper.make_node("If", ["yes"], ["z"], then_branch=branch, else_branch=other)
    )
    model.graph.output[0].name = "z"
    assert load_model(save(model, tmp_path)).model == model


def test_an_infinite_bound_of_clip_is_no_fault(tmp_path: Path) -> None:
    model = make_model()
    model.graph.initializer.append(numpy_helper.from_array(np.float32(np.inf).reshape(()), "top"))
    model.graph.node.append(helper.make_node("Clip", ["y", "", "top"], ["z"]))
    model.graph.output[0].name = "z"
    load_model(save(model, tmp_path))


@pytest.mark.parametrize(("value", "is_fault"), [(-np.inf, False), (np.inf, True), (np.nan, True)])
def test_minus_infinity_that_is_added_is_a_mask_and_no_fault(
    tmp_path: Path, value: float, is_fault: bool
) -> None:
    model = make_model()
    mask = np.array([0, value, 0, 0, 0], np.float32)
    model.graph.initializer.append(numpy_helper.from_array(mask, "mask"))
    model.graph.node.append(helper.make_node("Add", ["y", "mask"], ["z"]))
    model.graph.output[0].name = "z"
    path = save(model, tmp_path)
    if not is_fault:
        load_model(path)
        return
    with pytest.raises(ModelError, match="'mask'"):
        load_model(path)


# The path


def test_a_path_that_leads_nowhere_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such model") as caught:
        load_model(tmp_path / "none.onnx")
    assert "none.onnx" in str(caught.value)


def test_a_folder_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is a folder"):
        load_model(tmp_path)


def test_a_named_pipe_is_refused_without_waiting_for_it(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.onnx")
    with pytest.raises(InputError, match="no ordinary file"):
        load_model(tmp_path / "pipe.onnx")


def test_a_path_with_a_zero_byte_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError):
        load_model(tmp_path / "a\0b.onnx")


def test_a_file_above_two_gigabytes_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "huge.onnx"
    with path.open("wb") as file:
        file.truncate(3 << 30)  # sparse: takes no room
    with pytest.raises(InputError, match=r"3\.2 GB"):
        load_model(path)


def test_a_file_that_may_not_be_read_is_an_input_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(make_model(), tmp_path)

    def refuse(_: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(InputError, match=r"cannot be read: .*Permission denied"):
        load_model(path)


# What is no ONNX file


def as_zip() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", "weights")
    return file.getvalue()


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"", "is empty"),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), "a PNG picture"),
        (b"The weights are in the other folder.\n", "a text file"),
        (pickle.dumps({"fc.weight": 1}, protocol=2), r"PyTorch checkpoints \(\.pth\)"),
        (as_zip(), r"PyTorch checkpoints \(\.pt, \.pth\)"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "git lfs pull"),
        (b"\x20\0\0\0TFL3" + bytes(64), "TensorFlow Lite"),
        (random.Random(1).randbytes(1 << 20), "a file of another kind"),
        (b"\x08\x08", "no graph"),
    ],
    ids=["empty", "png", "text", "pickle", "zip", "lfs", "tflite", "random", "header-only"],
)
def test_a_file_of_another_kind_is_named(tmp_path: Path, data: bytes, told: str) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(data)
    with pytest.raises(ModelError, match=told) as caught:
        load_model(path)
    assert caught.value.path == str(path)
    assert "torch.onnx.export" in caught.value.mend


def test_a_file_cut_in_the_middle_is_called_cut_short(tmp_path: Path) -> None:
    path = save(make_model(), tmp_path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ModelError, match="cut short or damaged"):
        load_model(path)


def test_names_that_are_no_utf8_are_refused(tmp_path: Path) -> None:
    path = save(make_model(), tmp_path)
    path.write_bytes(path.read_bytes().replace(b"GlobalAveragePool", b"\xfflobalAveragePool"))
    with pytest.raises(ModelError, match=r"not UTF-8: onnx\.NodeProto\.op_type"):
        load_model(path)


# What is in the graph


@dataclass(frozen=True)
class Fault:
    """An edit of the sound model, and parts of the message it must lead to."""

    id: str
    edit: Edit
    told: tuple[str, ...]


def poison(name: str, value: float, count: int) -> Edit:
    def edit(model: onnx.ModelProto) -> None:
        values = numpy_helper.to_array(initializer(model, name)).copy()
        values.flat[:count] = value
        set_values(model, name, values)

    return edit


def both(*edits: Edit) -> Edit:
    return lambda model: [edit(model) for edit in edits]


def make_cycle(model: onnx.ModelProto) -> None:
    model.graph.node[2].input[0] = "s"


def make_cycle_through_subgraph(model: onnx.ModelProto) -> None:
    hide_in_subgraph(model, helper.make_node("Abs", ["o"], ["deep"]))
    model.graph.node.append(helper.make_node("Neg", ["z"], ["o"]))


def make_cycle_in_subgraph(model: onnx.ModelProto) -> None:
    hide_in_subgraph(model, helper.make_node("Abs", ["deep"], ["deep"]))


def add_text(values: Sequence[bytes] = (), data_location: int = TensorProto.DEFAULT) -> Edit:
    return lambda model: model.graph.initializer.add(
        name="text",
        data_type=TensorProto.STRING,
        dims=[2],
        string_data=values,
        data_location=data_location,
    )


def set_boolean_variance(model: onnx.ModelProto) -> None:
    initializer(model, "v").CopyFrom(numpy_helper.from_array(np.ones(4, np.bool_), "v"))


def reverse_nodes(model: onnx.ModelProto) -> None:
    nodes = [*reversed(model.graph.node)]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def set_opset(version: int) -> Edit:
    return lambda model: setattr(model.opset_import[0], "version", version)


def add_node(kind: str, **keywords: str) -> Edit:
    name = f"out_{kind}"
    return lambda model: model.graph.node.append(helper.make_node(kind, ["y"], [name], **keywords))


def sparse(model: onnx.ModelProto) -> None:
    model.graph.sparse_initializer.append(
        helper.make_sparse_tensor(
            floats("rare", 1), numpy_helper.from_array(np.array([2], np.int64)), [4]
        )
    )


def constant_of_wrong_size(model: onnx.ModelProto) -> None:
    model.graph.node[3].attribute[0].t.dims[0] = 1 << 40


FAULTS = [
    Fault("no-nodes", lambda m: m.graph.ClearField("node"), ("graph is empty", "no nodes")),
    Fault("no-outputs", lambda m: m.graph.ClearField("output"), ("graph is empty", "no outputs")),
    Fault("no-opset", lambda m: m.ClearField("opset_import"), ("no opsets of the default",)),
    Fault("old-opset", set_opset(8), ("opset 8", "9 to 24", "convert_version")),
    Fault("new-opset", set_opset(25), ("opset 25", "9 to 24")),
    Fault("quantized", add_node("QuantizeLinear"), ("quantized already", "'out_QuantizeLinear'")),
    Fault(
        "foreign-operators",
        both(add_node("FusedConv", domain="com.microsoft"), add_node("Wonder"), add_node("Wonder")),
        ("com.microsoft::FusedConv (1x)", "ai.onnx::Wonder (2x)"),
    ),
    Fault("sparse", sparse, ("sparse initializers: 'rare'",)),
    Fault(
        "same-output-twice",
        both(
            add_node("Abs"), add_node("Abs"), lambda m: m.graph.initializer.append(floats("r", 4))
        ),
        ("defined more than once", "'out_Abs'", "'r'"),
    ),
    Fault("same-initializer-twice", lambda m: m.graph.initializer.append(floats("w", 1)), ("'w'",)),
    Fault(
        "missing-initializers",
        lambda m: m.graph.ClearField("initializer"),
        ("nothing defines", "'w' (read by Conv 'c')", "'fc' (read by Gemm 'y')"),
    ),
    Fault("missing-output", lambda m: setattr(m.graph.output[0], "name", "q"), ("'q' (a graph",)),
    Fault("cycle", make_cycle, ("has a cycle", "'r'", "'s'")),
    Fault(
        "damaged-tensors",
        both(
            lambda m: setattr(initializer(m, "w"), "raw_data", b"abc"),
            lambda m: initializer(m, "fc").dims.append(1 << 50),
        ),
        ("'w' FLOAT [4, 3, 3, 3] needs 432 bytes and has 3", "'fc' FLOAT [4, 5, 1125899906842624]"),
    ),
    Fault("damaged-constant", constant_of_wrong_size, ("'k' FLOAT [1099511627776] needs",)),
    Fault("negative-size", lambda m: initializer(m, "g").dims.append(-1), ("negative size",)),
    Fault("odd-type", lambda m: setattr(initializer(m, "g"), "data_type", 77), ("'g' type 77",)),
    Fault(
        "few-values",
        lambda m: m.graph.initializer.append(
            TensorProto(name="short", data_type=TensorProto.FLOAT, dims=[1 << 45], float_data=[1])
        ),
        ("'short' FLOAT [35184372088832] needs 35184372088832 values and has 1",),
    ),
    Fault(
        "nan",
        both(poison("w", np.nan, 3), poison("fc", np.inf, 2)),
        ("NaN or infinite", "'w' (3 NaN, 0 infinite, of 108)", "'fc' (0 NaN, 2 infinite, of 20)"),
    ),
    Fault(
        "nan-in-constant",
        lambda m: (
            m.graph.node[3]
            .attribute[0]
            .t.CopyFrom(numpy_helper.from_array(np.array([np.nan], np.float32)))
        ),
        ("'k' (1 NaN, 0 infinite, of 1)",),
    ),
    Fault("lost-text", add_text(values=[b"one"]), ("'text' STRING [2] needs 2 strings and has 1",)),
    Fault(
        "text-outside",
        add_text(data_location=TensorProto.EXTERNAL),
        ("'text' STRING [2] holds text in another file",),
    ),
    Fault("cycle-in-subgraph", make_cycle_in_subgraph, ("has a cycle", "'deep'")),
    Fault("cycle-through-subgraph", make_cycle_through_subgraph, ("has a cycle", "'z'", "'o'")),
    Fault("variance-of-truths", set_boolean_variance, ("'n' (4 of 4 channels)",)),
    Fault("negative-variance", poison("v", -1.0, 2), ("negative or NaN", "'n' (2 of 4 channels)")),
    Fault("nan-variance", poison("v", np.nan, 1), ("negative or NaN", "'n' (1 of 4 channels)")),
    Fault(
        "checker",
        lambda m: m.graph.node[0].attribute.append(helper.make_attribute("colour", 3)),
        ("checker refuses", "colour"),
    ),
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.id)
def test_a_fault_in_the_graph_is_told_with_its_names(tmp_path: Path, fault: Fault) -> None:
    model = make_model()
    fault.edit(model)
    path = save(model, tmp_path)
    with pytest.raises(ModelError) as caught:
        load_model(path)
    missing = [part for part in fault.told if part not in str(caught.value)]
    assert not missing, f"{missing} not in: {caught.value}"
    assert caught.value.path == str(path)


def test_a_long_list_of_findings_is_cut_and_counted(tmp_path: Path) -> None:
    model = make_model()
    for index in range(20):
        name = f"bad{index}"
        model.graph.initializer.append(
            numpy_helper.from_array(np.full(1, np.nan, np.float32), name)
        )
    with pytest.raises(ModelError, match=r"'bad7'.* and 12 more"):
        load_model(save(model, tmp_path))


# External data


def test_a_missing_data_file_is_named_with_all_its_tensors(tmp_path: Path) -> None:
    path = save_external(tmp_path)
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(ModelError, match="missing") as caught:
        load_model(path)
    assert all(f"'{name}' (weights.bin)" in caught.value.what for name in ("w", "g", "v", "fc"))


@pytest.mark.parametrize(
    "location",
    [
        "/etc/hostname",
        "../weights.bin",
        "a/../../weights.bin",
        r"..\weights.bin",
        r"C:\weights.bin",
        "",
        "a\0b",
        ".",
    ],
)
def test_a_data_path_that_leaves_the_folder_is_refused(tmp_path: Path, location: str) -> None:
    (tmp_path / "inside").mkdir()
    path = save_external(tmp_path / "inside")
    (tmp_path / "weights.bin").write_bytes((tmp_path / "inside" / "weights.bin").read_bytes())
    edit_external(path, "w", location=location)
    with pytest.raises(ModelError) as caught:
        load_model(path)
    assert ("missing" if location == "." else "outside the model's folder") in caught.value.what
    assert "'w'" in caught.value.what


def test_a_link_that_leads_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "inside").mkdir()
    path = save_external(tmp_path / "inside")
    (tmp_path / "inside" / "weights.bin").rename(tmp_path / "secret.bin")
    (tmp_path / "inside" / "weights.bin").symlink_to(tmp_path / "secret.bin")
    with pytest.raises(ModelError, match="outside the model's folder"):
        load_model(path)


def hide_in_subgraph(model: onnx.ModelProto, node: onnx.NodeProto) -> None:
    out = helper.make_tensor_value_info("deep", TensorProto.FLOAT, None)
    branch = helper.make_graph([node], "branch", [], [out])
    model.graph.initializer.append(numpy_helper.from_array(np.array(True), "yes"))
    model.graph.node.append(
        helper.make_node("If", ["yes"], ["z"], then_branch=branch, else_branch=branch)
    )


def hide_in_function(model: onnx.ModelProto, node: onnx.NodeProto) -> None:
    opsets = [helper.make_opsetid("", 17)]
    model.functions.append(helper.make_function("mine", "F", [], ["deep"], [node], opsets))
    model.opset_import.append(helper.make_opsetid("mine", 1))


def hide_in_graph(model: onnx.ModelProto, node: onnx.NodeProto) -> None:
    model.graph.node.append(node)


@pytest.mark.parametrize("hide", [hide_in_graph, hide_in_subgraph, hide_in_function])
@pytest.mark.parametrize("is_sparse", [False, True], ids=["dense", "sparse"])
def test_a_data_path_hidden_in_a_constant_is_refused(
    tmp_path: Path, hide: Callable[[onnx.ModelProto, onnx.NodeProto], None], is_sparse: bool
) -> None:
    hidden = TensorProto(data_type=TensorProto.FLOAT, dims=[1], data_location=TensorProto.EXTERNAL)
    hidden.external_data.add(key="location", value="/etc/hostname")
    node = helper.make_node("Constant", [], ["deep"], value=hidden)
    if is_sparse:
        indices = numpy_helper.from_array(np.array([2], np.int64))
        sparse_value = onnx.SparseTensorProto(values=hidden, indices=indices, dims=[4])
        node = helper.make_node("Constant", [], ["deep"], sparse_value=sparse_value)
    model = make_model()
    hide(model, node)
    with pytest.raises(ModelError, match=r"outside the model's folder: 'deep' \('/etc/hostname'\)"):
        load_model(save(model, tmp_path))


def test_a_data_path_of_a_name_that_no_file_system_takes_is_missing(tmp_path: Path) -> None:
    path = save_external(tmp_path)
    edit_external(path, "w", location="n" * 5000)
    with pytest.raises(ModelError, match=r"files that are missing: 'w'"):
        load_model(path)


@pytest.mark.parametrize(
    ("entries", "told"),
    [
        ({"offset": "99999999"}, "but the file ends at"),
        ({"length": "99999999999"}, "length 99999999999, but its type and shape need 432"),
        ({"length": "8"}, "length 8, but its type and shape need 432"),
        ({"offset": "-4"}, "are no sizes"),
        ({"offset": "9" * 5000}, "are no sizes"),
        ({"length": "many"}, "are no sizes"),
    ],
    ids=["offset", "length", "short", "negative", "digits", "word"],
)
def test_a_region_that_does_not_fit_is_refused(
    tmp_path: Path, entries: dict[str, str], told: str
) -> None:
    path = save_external(tmp_path)
    edit_external(path, "w", **entries)
    with pytest.raises(ModelError, match="does not fit") as caught:
        load_model(path)
    assert told in caught.value.what
    assert "'w' FLOAT [4, 3, 3, 3] in weights.bin" in caught.value.what


def test_a_data_file_that_may_not_be_read_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save_external(tmp_path)

    really_open = Path.open

    def refuse(self: Path, mode: str = "r") -> IO[Any]:
        if self.name == "weights.bin":
            raise PermissionError(13, "Permission denied")
        return really_open(self, mode)

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(ModelError, match=r"external data weights\.bin: Permission denied"):
        load_model(path)


def test_many_tensors_over_one_region_cannot_fill_the_memory(tmp_path: Path) -> None:
    with (tmp_path / "weights.bin").open("wb") as file:
        file.truncate(1 << 30)  # sparse: takes no room
    model = make_model()
    for index in range(4):
        tensor = model.graph.initializer.add(
            name=f"copy{index}",
            data_type=TensorProto.FLOAT,
            dims=[1 << 28],
            data_location=TensorProto.EXTERNAL,
        )
        tensor.external_data.add(key="location", value="weights.bin")
    with pytest.raises(ModelError, match=r"4\.3 GB"):
        load_model(save(model, tmp_path))


# Anything at all


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.data())
def test_no_damage_gives_anything_but_an_edgeq_error(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    sound = make_model().SerializeToString()
    damaged = bytearray(sound)
    for _ in range(data.draw(st.integers(0, 4))):
        damaged[data.draw(st.integers(0, len(sound) - 1))] = data.draw(st.integers(0, 255))
    end = data.draw(st.integers(0, len(sound)))
    path = tmp_path_factory.mktemp("damage") / "model.onnx"
    path.write_bytes(bytes(damaged[:end]))
    outcome_of(path)


def test_every_truncation_gives_an_edgeq_error(tmp_path: Path) -> None:
    sound = make_model().SerializeToString()
    path = tmp_path / "model.onnx"
    for end in range(0, len(sound), 7):
        path.write_bytes(sound[:end])
        assert outcome_of(path) is None, f"{end} of {len(sound)} bytes were taken for a model"


def test_flipped_bytes_all_over_the_file_give_an_edgeq_error_or_a_model(tmp_path: Path) -> None:
    sound = make_model().SerializeToString()
    path = tmp_path / "model.onnx"
    rng = random.Random(7)
    outcomes = []
    for _ in range(400):
        damaged = bytearray(sound)
        damaged[rng.randrange(len(sound))] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged)
        outcomes.append(outcome_of(path) is not None)
    assert any(outcomes)
    assert not all(outcomes)


def wrap(number: int, data: bytes) -> bytes:
    """Return `data` as the protobuf field `number`, a message."""
    size, length = b"", len(data)
    while length > 127:
        size, length = size + bytes([length & 127 | 128]), length >> 7
    return bytes([number << 3 | 2]) + size + bytes([length]) + data


def test_branches_that_nest_ten_thousand_deep_are_refused(tmp_path: Path) -> None:
    graph = b""
    for _ in range(
        10_000
    ):  # node { op_type: If, attribute { name: then_branch, g: the one before } }
        branch = wrap(1, b"then_branch") + wrap(6, graph)
        graph = wrap(1, wrap(4, b"If") + wrap(5, branch))
    path = tmp_path / "model.onnx"
    path.write_bytes(b"\x08\x08" + wrap(7, graph))
    with pytest.raises(ModelError, match="cut short or damaged"):
        load_model(path)


ENORMOUS: dict[str, Edit] = {
    "initializer": lambda m: initializer(m, "fc").dims.append(1 << 50),
    "constant": constant_of_wrong_size,
    "filled": lambda m: m.graph.node.extend(
        [
            helper.make_node("Constant", [], ["big"], value_ints=[1 << 20, 1 << 20]),
            helper.make_node("ConstantOfShape", ["big"], ["filled"]),
        ]
    ),
}


@pytest.mark.parametrize("case", ENORMOUS)
def test_an_enormous_tensor_is_refused_without_room_for_it(tmp_path: Path, case: str) -> None:
    model = make_model()
    ENORMOUS[case](model)
    path = save(model, tmp_path)
    tracemalloc.start()
    try:
        with pytest.raises(ModelError):
            load_model(path)
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
    finally:
        tracemalloc.stop()


def outcome_of(path: Path) -> LoadedModel | None:
    try:
        return load_model(path)
    except EdgeqError:
        return None


@pytest.mark.skipif(not hasattr(TensorProto, "INT2"), reason="the installed onnx knows no INT2")
def test_codes_of_2_bits_are_read_as_those_of_4(tmp_path):
    nodes = [
        helper.make_node("DequantizeLinear", ["q", "s"], ["w"]),
        helper.make_node("Add", ["x", "w"], ["y"]),
    ]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [3]) for name in "xy")
    codes = helper.make_tensor("q", TensorProto.INT2, [3], [-2, 0, 1])
    scale = numpy_helper.from_array(np.float32(0.5), "s")
    graph = helper.make_graph(nodes, "g", [x], [y], [codes, scale])
    opset = [helper.make_opsetid("", 25)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=13), tmp_path / "m.onnx")
    view = GraphView(load_any_model(tmp_path / "m.onnx"))
    np.testing.assert_array_equal(np.asarray(view.constant("q"), np.int8), [-2, 0, 1])
