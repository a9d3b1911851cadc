"""Measure how long a model takes from the file to the plan, by number of nodes: it has to grow linearly.

    python benchmarks/importing.py                     # every kind of graph, 500 to 5,000 nodes
    python benchmarks/importing.py --write             # the same, into docs/importing.md
    python benchmarks/importing.py --kinds residual --nodes 5000 --profile

Each graph is random and deep, with small weights, so that the time is that of the graph and not of its arrays. The
steps are those of `edgeq build` before the first image: load_model, import_teacher, read_bn_table, fold_batchnorm (with
the shape inference after it) and plan_placement. Growth is the time of a node against that of the smallest graph: 1.0
is linear. Python's garbage collector is told apart: a full collection walks all that torch and onnx hold, about 0.1 s,
and a small graph makes too few objects for one.
"""

from __future__ import annotations

import argparse
import cProfile
import gc
import platform
import pstats
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper

from deploy.cards import load_card
from edgeq.core.specs import BitSpec
from edgeq.graph.batchnorm import fold_batchnorm, read_bn_table
from edgeq.graph.inputs import describe_inputs
from edgeq.graph.placement import plan_placement
from edgeq.graph.read import load_model
from edgeq.teacher.importer import import_teacher

DOCUMENT = Path(__file__).parents[1] / "docs" / "importing.md"
CHANNELS = 4
STEPS = ("load", "import", "table", "fold", "plan")
Step = tuple[str, float]


class Graph:
    """Nodes and initializers of a model that grows tensor by tensor, [N, CHANNELS, 8, 8] unless a node says more."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self._generator = np.random.default_rng(0)

    def node(self, op_type: str, *inputs: str, **attributes: Any) -> str:
        """Append a node and return its output."""
        name = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(op_type, inputs, [name], name=name, **attributes))
        return name

    def weight(self, *shape: int) -> str:
        """Append an initializer of values around 0.3 and return its name."""
        values = self._generator.uniform(0.1, 0.5, shape).astype(np.float32)
        return self.constant(values)

    def constant(self, values: np.ndarray) -> str:
        """Append an initializer and return its name."""
        name = f"c{len(self.initializers)}"
        self.initializers.append(numpy_helper.from_array(values, name))
        return name

    def convolution(self, tensor: str, channels: int) -> str:
        """Append Conv, BatchNormalization and Relu and return the last output."""
        y = self.node("Conv", tensor, self.weight(CHANNELS, channels, 3, 3), pads=[1] * 4)
        y = self.node("BatchNormalization", y, *(self.weight(CHANNELS) for _ in range(4)))
        return self.node("Relu", y)


def grow_residual(graph: Graph, tensor: str) -> str:
    """Append a residual block."""
    return graph.node("Add", graph.convolution(tensor, CHANNELS), tensor)


def grow_dense(graph: Graph, tensor: str) -> str:
    """Append a block whose layers read the outputs of all layers before them in the block."""
    tensors = [tensor]
    for index in range(8):
        y = graph.node("Concat", *tensors, axis=1) if index else tensor
        tensors.append(graph.convolution(y, CHANNELS * len(tensors)))
    return tensors[-1]


def grow_products(graph: Graph, tensor: str) -> str:
    """Append a block that flattens, multiplies by a matrix, and takes its shape back by shape arithmetic."""
    shape = graph.node("Shape", tensor)
    flat = graph.node("Reshape", tensor, graph.constant(np.array([-1, CHANNELS])))
    y = graph.node("MatMul", flat, graph.weight(CHANNELS, CHANNELS))
    y = graph.node("BatchNormalization", y, *(graph.weight(CHANNELS) for _ in range(4)))
    sizes = [
        graph.node("Slice", shape, graph.constant(np.array([i])), graph.constant(np.array([i + 1])))
        for i in range(4)
    ]
    y = graph.node("Reshape", y, graph.node("Concat", *sizes, axis=0))
    return graph.node("Sigmoid", y)


KINDS: dict[str, Callable[[Graph, str], str]] = {
    "residual": grow_residual,
    "dense": grow_dense,
    "products": grow_products,
}


def make_model(kind: str, nodes: int) -> onnx.ModelProto:
    """Return a classifier of about `nodes` nodes."""
    graph = Graph()
    tensor = graph.convolution("x", 3)
    while len(graph.nodes) < nodes - 3:
        tensor = KINDS[kind](graph, tensor)
    flat = graph.node("Flatten", graph.node("GlobalAveragePool", tensor))
    y = graph.node("Gemm", flat, graph.weight(CHANNELS, 10))
    shapes: dict[str, list[int | str | None]] = {"x": ["N", 3, 8, 8], y: ["N", 10]}
    x_info, y_info = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in shapes.items()
    )
    proto = helper.make_graph(graph.nodes, kind, [x_info], [y_info], graph.initializers)
    opsets = [helper.make_opsetid("", 17)]
    return helper.make_model(proto, opset_imports=opsets, ir_version=8)


def measure(path: Path, target: str) -> Iterator[Step]:
    """Yield each step's name and its seconds of processor time, of which other work on the machine takes none."""
    card = load_card(target)
    clock = time.process_time()

    def lap(name: str) -> Step:
        nonlocal clock
        before, clock = clock, time.process_time()
        return name, clock - before

    loaded = load_model(path)
    yield lap("load")
    import_teacher(loaded.inferred)
    yield lap("import")
    read_bn_table(loaded.inferred)
    yield lap("table")
    folded = fold_batchnorm(loaded.model).model
    inferred = onnx.shape_inference.infer_shapes(folded, data_prop=True)
    yield lap("fold")
    inputs = [report.spec for report in describe_inputs(loaded.inferred)]
    bits = BitSpec(weights=8, activations=8)
    plan_placement(inferred, card=card, bits=bits, inputs=inputs)
    yield lap("plan")


class CollectorClock:
    """Adds up the processor time of Python's garbage collector while it is open.

    Attributes:
        seconds: so far.
    """

    def __init__(self) -> None:
        self.seconds = 0.0

    def __enter__(self) -> CollectorClock:
        gc.collect()
        gc.callbacks.append(self._hear)
        return self

    def __exit__(self, *_: object) -> None:
        gc.callbacks.remove(self._hear)

    def _hear(self, phase: str, _: dict[str, int]) -> None:
        self.seconds += time.process_time() * (1 if phase == "stop" else -1)


def main() -> None:
    """Print a line a graph."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=list(KINDS))
    parser.add_argument("--nodes", nargs="+", type=int, default=[500, 1000, 2000, 5000])
    parser.add_argument("--target", default="jetson-orin")
    parser.add_argument("--profile", action="store_true", help="print where the time goes")
    parser.add_argument("--write", action="store_true", help=f"write {DOCUMENT.name}")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(
        f"{'kind':10}{'nodes':>7}"
        + "".join(f"{name:>9}" for name in STEPS)
        + "  total s  growth  collector s  growth of the rest"
    )
    rows: list[str] = []
    for kind in arguments.kinds:
        base = base_rest = None
        for nodes in arguments.nodes:
            model = make_model(kind, nodes)
            with tempfile.TemporaryDirectory() as folder, cProfile.Profile() as profile:
                if not arguments.profile:
                    profile.disable()
                path = Path(folder) / "model.onnx"
                onnx.save(model, path)
                with CollectorClock() as collector:
                    seconds = dict(measure(path, arguments.target))
            total, count = sum(seconds.values()), len(model.graph.node)
            rest = total - collector.seconds
            base, base_rest = base or total / count, base_rest or rest / count
            figures = f"{total / count / base:.2f}", f"{rest / count / base_rest:.2f}"
            cells = "".join(f"{seconds[name]:9.2f}" for name in STEPS)
            line = f"{kind:10}{count:7}{cells}{total:9.2f}{figures[0]:>8}{collector.seconds:13.2f}{figures[1]:>20}"
            print(line, flush=True)
            told = f"{total:.1f} | {figures[0]} | {collector.seconds:.2f} | {figures[1]}"
            rows.append(f"| {kind} | {count} | {told} |")
            if arguments.profile:
                pstats.Stats(profile).sort_stats("cumulative").print_stats(25)
    if arguments.write:
        DOCUMENT.write_text(_document(rows), "utf-8")


def _document(rows: list[str]) -> str:
    """Return the page that shows what was measured."""
    versions = (
        f"Python {platform.python_version()}, onnx {onnx.__version__}, torch {torch.__version__}"
    )
    day = f"{datetime.now(timezone.utc):%Y-%m-%d}"
    return f"""# How long a file takes to be read and planned

<!-- Written by `python benchmarks/importing.py --write`; do not edit. -->

From the file to the placement: read and check, import, BatchNorm table and fold, plan. Random deep graphs with small
weights, one thread, {platform.machine()}, {versions}, {day}.
Seconds are processor time, so that other work on the machine does not count.
Growth is the time of a node against that of the smallest graph: 1.00 is linear. Python's garbage collector, whose full
collections walk all objects of torch and onnx, about 0.1 s each, rests during the work on a graph
(`edgeq/core/collector.py`); the last two columns tell apart what is left of it.

| kind | nodes | seconds | growth | of it, collector | growth of the rest |
|---|---|---|---|---|---|
{chr(10).join(rows)}
"""


if __name__ == "__main__":
    main()
