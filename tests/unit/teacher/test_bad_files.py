"""A corpus of bad files: each ends in one clear error, or in a teacher, within seconds and bounded memory.

The model has what the reader and the importer look at closely: weights, a function, an If, shape arithmetic, Constants
in several encodings. What `edgeq.graph.read` alone must find is in tests/unit/graph/test_read.py.
"""

from __future__ import annotations

import itertools
import random
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from edgeq.core.errors import EdgeqError, ModelError
from edgeq.graph.batchnorm import fold_batchnorm, read_bn_table
from edgeq.graph.read import load_model
from edgeq.teacher.execution import RuntimeSession, run_module
from edgeq.teacher.importer import import_teacher
from edgeq.teacher.teacher import Teacher

# A sound file takes 10 ms; the limits are for a busy machine.
SECONDS = 5.0
MEGABYTES = 500

TEXT = """<ir_version: 8, opset_import: ["" : 17, "mine" : 1]>
g (float[N,2,8,8] x) => (float[N,3] y) <int64 one = {1}, int64 four = {4}, float[4] scales = {1, 1, 2, 2}> {
  c = Conv <pads = [1,1,1,1]> (x, w)
  n = BatchNormalization (c, g, g, g, g)
  f = mine.F (n)
  s = Shape (f) d = Gather (s, one) k = Equal (d, four)
  r = If (k) <
    then_branch = t () => (float[N,4,8,8] q) { q = Relu (f) },
    else_branch = e () => (float[N,4,8,8] q) { q = Neg (f) }
  >
  u = Resize <mode = "linear"> (r, , scales)
  p = GlobalAveragePool (u)
  rest = Constant <value_ints = [-1]> ()
  first = Constant <value = int64[1] {0}> ()
  b = Gather <axis = 0> (s, first)
  sizes = Concat <axis = 0> (b, rest)
  m = Reshape (p, sizes)
  y = Gemm <transB = 1> (m, fc)
}
<domain: "mine", opset_import: ["" : 17]>
F (a) => (b) { c = Abs (a) b = Sqrt (c) }
"""

Edit = Callable[[onnx.ModelProto], object]


@dataclass(frozen=True)
class Fault:
    id: str
    edit: Edit
    told: str


def make_model() -> onnx.ModelProto:
    model = onnx.parser.parse_model(TEXT)
    generator = np.random.default_rng(0)
    for name, shape in (("w", (4, 2, 3, 3)), ("g", (4,)), ("fc", (3, 4))):
        values = generator.uniform(0.5, 1, shape).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(values, name))
    return model


def import_file(path: Path) -> Teacher:
    """Go from the file to the teacher and a run beside ONNX Runtime, as `edgeq build` does, within the limits."""
    clock = time.process_time()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        loaded = load_model(path)
        read_bn_table(loaded.inferred)
        fold_batchnorm(loaded.model)
        teacher = import_teacher(loaded.inferred)
        feed = {name: np.zeros((2, 2, 8, 8), np.float32) for name in teacher.inputs}
        RuntimeSession(loaded.model).run(teacher.outputs, feed)
        run_module(teacher.module, feed)
        return teacher
    finally:
        assert time.process_time() - clock < SECONDS
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        assert grown / 1024 < MEGABYTES


def ends_well(path: Path, data: bytes) -> bool:
    """Return whether `data` became a teacher; an EdgeqError is the only other end, and it says all three parts."""
    path.write_bytes(data)
    try:
        import_file(path)
    except EdgeqError as error:
        return not (error.what and error.why and error.mend)
    return True


def test_the_sound_file_becomes_a_teacher(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    assert ends_well(path, make_model().SerializeToString())
    assert import_file(path).module(torch.zeros(2, 2, 8, 8))[0].shape == (2, 3)


def test_no_truncation_becomes_a_teacher(tmp_path: Path) -> None:
    sound = make_model().SerializeToString()
    path = tmp_path / "model.onnx"
    ends = range(0, len(sound), 5)
    assert [end for end in ends if ends_well(path, sound[:end])] == []


@pytest.mark.parametrize("seed", range(4))
def test_flipped_bytes_end_in_an_error_or_a_teacher(tmp_path: Path, seed: int) -> None:
    sound = make_model().SerializeToString()
    path = tmp_path / "model.onnx"
    generator = random.Random(seed)
    outcomes = []
    for _ in range(150):
        damaged = bytearray(sound)
        for _ in range(generator.choice((1, 1, 2, 3))):
            position = generator.randrange(len(sound))
            damaged[position] = generator.choice((0, 1, 127, 128, 255, damaged[position] ^ 1))
        outcomes.append(ends_well(path, bytes(damaged)))
    assert any(outcomes)
    assert not all(outcomes)


def replace(name: str, values: np.ndarray) -> Edit:
    def edit(model: onnx.ModelProto) -> None:
        tensor = next(item for item in model.graph.initializer if item.name == name)
        tensor.CopyFrom(numpy_helper.from_array(values, name))

    return edit


def set_dims(name: str, *dims: int) -> Edit:
    def edit(model: onnx.ModelProto) -> None:
        tensor = next(item for item in model.graph.initializer if item.name == name)
        tensor.dims[:] = dims

    return edit


def set_input(*dims: int) -> Edit:
    def edit(model: onnx.ModelProto) -> None:
        info = helper.make_tensor_value_info("x", TensorProto.FLOAT, dims)
        model.graph.input[0].CopyFrom(info)

    return edit


def set_type(element_type: int) -> Edit:
    return lambda model: setattr(model.graph.input[0].type.tensor_type, "elem_type", element_type)


def append(text: str, **constants: np.ndarray) -> Edit:
    """Make the nodes of `text`, which read `y` and give `z`, the end of the model."""

    def edit(model: onnx.ModelProto) -> None:
        inner = onnx.parser.parse_graph(f"g (float[N,3] y) => (float[A,B] z) {{ {text} }}")
        model.graph.node.extend(inner.node)
        model.graph.output[0].CopyFrom(inner.output[0])
        model.graph.initializer.extend(
            numpy_helper.from_array(value, name) for name, value in constants.items()
        )

    return edit


def append_sparse(model: onnx.ModelProto) -> None:
    values = numpy_helper.from_array(np.ones(1, np.float32))
    where = numpy_helper.from_array(np.array([2]))
    sparse = helper.make_sparse_tensor(values, where, [3])
    model.graph.node.append(helper.make_node("Constant", [], ["rare"], sparse_value=sparse))
    model.graph.node.append(helper.make_node("Mul", ["y", "rare"], ["z"]))
    model.graph.output[0].name = "z"


HUGE = np.array([10**6, 10**6])
ONE = np.float32(1)
FAULTS = [
    Fault("weight-of-text", replace("w", np.array(["a", "b"])), "cannot be imported"),
    Fault("weight-of-integers", replace("w", np.ones((4, 2, 3, 3), np.int32)), "Conv"),
    Fault("weight-of-one-axis", replace("w", np.ones(4, np.float32)), "Conv"),
    Fault("weight-of-other-channels", replace("w", np.ones((4, 5, 3, 3), np.float32)), ""),
    Fault("statistics-of-other-length", replace("g", np.ones(7, np.float32)), "'n'"),
    Fault("weight-of-negative-size", set_dims("w", -4, 2, 3, 3), "negative size"),
    Fault("weight-of-enormous-size", set_dims("w", 2**62, 2**62), "'w'"),
    Fault("input-of-enormous-size", set_input(1, 2, 10**7, 10**7), "more than"),
    Fault("input-of-two-axes", set_input(1, 2), "cannot be imported"),
    Fault("input-of-text", set_type(TensorProto.STRING), "Conv"),
    Fault(
        "enormous-expand",
        append("top = ReduceMean (y) z = Expand (top, huge)", huge=HUGE),
        "'z' (1e+12 elements)",
    ),
    Fault(
        "enormous-fill",
        append("fill = ConstantOfShape (huge) z = Mul (y, fill)", huge=HUGE),
        "'fill' (1e+12 elements)",
    ),
    Fault(
        "enormous-range",
        append("many = Range (low, high, low) z = Add (y, many)", low=ONE, high=ONE * 1e12),
        "1e+12",
    ),
    Fault(
        "enormous-fill-of-a-computed-size",
        append(
            "q = Mod (huge, more) fill = ConstantOfShape (q) z = Mul (y, fill)",
            huge=HUGE,
            more=HUGE + 1,
        ),
        "1e+12 elements, more than",
    ),
    Fault("enormous-tile", append("z = Tile (y, huge)", huge=HUGE), "Tile"),
    Fault(
        "enormous-pad", append("z = Pad (y, pads)", pads=np.array([0, 0, 0, 10**12])), "'z' (1e+12"
    ),
    Fault(
        "loop",
        append(
            """v = Loop (count, , y) <
              body = l (int64 i, bool on, float[N,3] a) => (bool go, float[N,3] o) {
                go = Identity (on) o = Abs (a) }
            > z = Abs (v)""",
            count=np.array(3),
        ),
        "Loop 'v': edgeq imports straight graphs",
    ),
    Fault("sparse-constant", append_sparse, "a sparse constant"),
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.id)
def test_a_fault_is_told(tmp_path: Path, fault: Fault) -> None:
    model = make_model()
    fault.edit(model)
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ModelError) as caught:
        import_file(path)
    assert fault.told in str(caught.value)


def varint(number: int) -> bytes:
    data = b""
    while number > 127:
        data, number = data + bytes([number & 127 | 128]), number >> 7
    return data + bytes([number])


def field(number: int, data: bytes) -> bytes:
    """Return one length-delimited protobuf field."""
    return varint(number << 3 | 2) + varint(len(data)) + data


@pytest.mark.parametrize("depth", [20, 40, 10_000])
def test_subgraphs_inside_subgraphs_are_refused(tmp_path: Path, depth: int) -> None:
    """Protobuf gives up at 100 levels; what it still reads must not exhaust the stack either."""
    graph = field(2, b"g")
    for level in range(depth):
        branch = field(1, b"then_branch") + field(6, graph) + varint(20 << 3) + b"\x05"
        node = field(1, b"c") + field(2, b"o%d" % level) + field(4, b"If") + field(5, branch)
        graph = field(1, node) + field(2, b"g")
    graph += field(12, field(1, b"o%d" % (depth - 1)))
    data = b"\x08\x08" + field(7, graph) + field(8, varint(2 << 3) + b"\x11")
    assert not ends_well(tmp_path / "model.onnx", data)


def test_a_chain_of_ten_thousand_nodes_does_not_exhaust_the_stack(tmp_path: Path) -> None:
    names = ["x", *(f"t{index}" for index in range(10_000))]
    nodes = [helper.make_node("Identity", [a], [b]) for a, b in itertools.pairwise(names)]
    infos = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, 2, 8, 8])
        for name in ("x", names[-1])
    ]
    graph = helper.make_graph(nodes, "chain", infos[:1], infos[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    assert ends_well(tmp_path / "model.onnx", model.SerializeToString())
