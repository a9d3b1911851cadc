"""Is an ONNX graph one that edgeq can work on: its operators, its names, its order.

Entry: `check_structure`. It reads names only, never tensor data, and trusts nothing, so it may run on a file that
was just decoded. What ONNX's own checker reports well (arity, attributes, types) is left to that.
"""

from __future__ import annotations

import graphlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import onnx

from edgeq.core.errors import ModelError
from edgeq.graph.findings import require_none
from edgeq.graph.view import node_id

# The opsets that the importer was written and tested for. What a target takes is less, and on its card.
OPSET_MIN = 9
OPSET_MAX = 24
DEFAULT_DOMAINS = ("", "ai.onnx")

# What onnx's C++ code raises for a model it cannot take, besides its own two classes.
FOREIGN_ERRORS = (
    onnx.checker.ValidationError,
    onnx.shape_inference.InferenceError,
    RuntimeError,
    ValueError,
    IndexError,
    TypeError,
    MemoryError,
)

_QUANTIZED = frozenset(
    {
        "QuantizeLinear",
        "DequantizeLinear",
        "DynamicQuantizeLinear",
        "QLinearConv",
        "QLinearMatMul",
        "ConvInteger",
        "MatMulInteger",
    }
)


def subgraphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """Yield the graphs that `node` carries in its attributes (If, Loop, Scan)."""
    for item in node.attribute:
        if item.HasField("g"):
            yield item.g
        yield from item.graphs


def walk_graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """Yield `graph` and every graph inside it."""
    yield graph
    for node in graph.node:
        for inner in subgraphs(node):
            yield from walk_graphs(inner)


def names_read_by(node: onnx.NodeProto) -> set[str]:
    """Return what a node reads, its inner graphs included, but what these make themselves."""
    read = set(node.input)
    for inner in subgraphs(node):
        inside = {name for item in inner.node for name in names_read_by(item)}
        inside |= {item.name for item in inner.output}
        made = {name for item in inner.node for name in item.output}
        given = {item.name for item in (*inner.input, *inner.initializer)}
        read |= inside - made - given
    return read


def names_read_inside(graph: onnx.GraphProto) -> set[str]:
    """Return every name that the subgraphs of `graph` read; `GraphView` sees none of these readers."""
    inner = [nested for nested in walk_graphs(graph) if nested is not graph]
    reads = {name for nested in inner for node in nested.node for name in node.input}
    return reads | {item.name for nested in inner for item in nested.output}


def check_structure(model: onnx.ModelProto, path: Path, *, any_operator: bool = False) -> None:
    """Raise for the first kind of fault in the names and operators of `model`, listing all faults of that kind.

    Functions of the file's own may be called; `inline_functions` puts them in place, and this check runs again.

    Args:
        model: as decoded.
        path: its file, for the message.
        any_operator: if true, quantized models, foreign operators and every opset pass: a lint finds these itself.

    Raises:
        ModelError: for an empty graph, a missing or foreign opset, a quantized model, an unknown operator, a sparse
            initializer, a name defined twice or never, or a cycle.
    """
    graph = model.graph
    _check_not_empty(graph, path)
    opset = _find_opset(model, path)
    if not any_operator:
        _check_opset(opset, path)
        _check_operators(model, opset, path)
    require_none(
        [
            f"'{item.values.name}'"
            for inner in walk_graphs(graph)
            for item in inner.sparse_initializer
        ],
        "sparse initializers",
        why="edgeq reads dense weights only",
        mend="make them dense before export",
        path=path,
    )
    _check_names(graph, path)


def _check_not_empty(graph: onnx.GraphProto, path: Path) -> None:
    missing = [
        kind for kind, items in (("nodes", graph.node), ("outputs", graph.output)) if not items
    ]
    if missing:
        raise ModelError(
            f"the graph is empty: it has no {' and no '.join(missing)}",
            why="there is nothing to quantize",
            mend="export the model again; the file may be cut short",
            path=path,
        )


def _find_opset(model: onnx.ModelProto, path: Path) -> int:
    versions = [item.version for item in model.opset_import if item.domain in DEFAULT_DOMAINS]
    if len(versions) != 1:
        raise ModelError(
            f"the file names {len(versions) or 'no'} opsets of the default ONNX domain",
            why="exactly one version tells what the operators mean; a file cut short may lack it",
            mend="export the model again",
            path=path,
        )
    return int(versions[0])


def _check_opset(opset: int, path: Path) -> None:
    if not OPSET_MIN <= opset <= OPSET_MAX:
        raise ModelError(
            f"the model has opset {opset}",
            why=f"this version of edgeq works on opsets {OPSET_MIN} to {OPSET_MAX}",
            mend=f"export it again with opset_version=17, or convert it: "
            f"onnx.version_converter.convert_version(model, {min(max(opset, 17), OPSET_MAX)})",
            path=path,
        )


def _check_operators(model: onnx.ModelProto, opset: int, path: Path) -> None:
    nodes = [node for graph in walk_graphs(model.graph) for node in graph.node]
    require_none(
        [f"{node.op_type} '{node_id(node)}'" for node in nodes if node.op_type in _QUANTIZED],
        "the model is quantized already",
        why="edgeq decides placement and ranges itself and starts from the float network",
        mend="pass the model from before quantization",
        path=path,
    )
    local = {(item.domain, item.name) for item in model.functions}
    foreign = Counter(
        f"{node.domain or 'ai.onnx'}::{node.op_type}"
        for node in nodes
        if (node.domain, node.op_type) not in local
        and (node.domain not in DEFAULT_DOMAINS or not onnx.defs.has(node.op_type, opset, ""))
    )
    require_none(
        _counted(foreign),
        f"operators that ONNX opset {opset} does not define",
        why="they are custom, or belong to another domain or opset, and cannot be turned into a teacher",
        mend="export the model without custom operators or runtime optimisations",
        path=path,
    )


def _counted(names: Counter[str]) -> list[str]:
    return [f"{name} ({count}x)" for name, count in sorted(names.items())]


@dataclass(slots=True)
class _NameFaults:
    """What is wrong with the names of a graph and of those inside it, one phrase each."""

    duplicate: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    early: list[str] = field(default_factory=list)


def _check_names(graph: onnx.GraphProto, path: Path) -> None:
    faults = _NameFaults()
    _find_name_faults(graph, set(), set(), faults)
    require_none(
        faults.duplicate,
        "names that are defined more than once",
        why="ONNX demands that every tensor has one origin (static single assignment)",
        mend="export the model again, or rename the tensors",
        path=path,
    )
    require_none(
        faults.unknown,
        "tensors that nothing defines",
        why="they are no input, no initializer and no node's output; initializers may have been lost",
        mend="export the model again with its parameters (export_params=True)",
        path=path,
    )
    if faults.early:  # nodes are sorted before, where that is possible
        cycles = [found for nested in walk_graphs(graph) if (found := _find_cycle(nested))]
        require_none(
            cycles[0] if cycles else faults.early,
            "the graph has a cycle",
            why="a network must run from inputs to outputs",
            mend="export the model again",
            path=path,
        )


def _find_name_faults(
    graph: onnx.GraphProto, outer: set[str], later: set[str], faults: _NameFaults
) -> None:
    """Append to `faults`; `outer` and `later` are names of the graphs around, defined before and after this one."""
    initializers = [item.name for item in graph.initializer]
    inputs = [item.name for item in graph.input]
    outputs = [name for node in graph.node for name in node.output if name]
    # An initializer may repeat the name of an input: it is that input's default.
    defined = Counter(set(inputs) | set(initializers)) + Counter(outputs)
    for group in (inputs, initializers, [item.name for item in graph.output]):
        defined += Counter({name: count for name, count in Counter(group).items() if count > 1})
    faults.duplicate += [f"'{name}'" for name, count in defined.items() if count > 1]

    seen = outer | set(inputs) | set(initializers)
    later = later | set(outputs)
    for node in graph.node:
        for name in node.input:
            if name and name not in seen:
                kind = faults.early if name in later else faults.unknown
                kind.append(f"'{name}' (read by {node.op_type} '{node_id(node)}')")
        for inner in subgraphs(node):
            _find_name_faults(inner, seen, later, faults)
        seen.update(node.output)
    faults.unknown += [
        f"'{item.name}' (a graph output)" for item in graph.output if item.name not in seen
    ]


def _find_cycle(graph: onnx.GraphProto) -> list[str]:
    """Return the nodes of one cycle in running order, or nothing."""
    origin = {name: index for index, node in enumerate(graph.node) for name in node.output if name}
    sorter: graphlib.TopologicalSorter[int] = graphlib.TopologicalSorter()
    for index, node in enumerate(graph.node):
        sorter.add(index, *(origin[name] for name in names_read_by(node) if name in origin))
    try:
        sorter.prepare()
    except graphlib.CycleError as error:
        return [f"'{node_id(graph.node[index])}'" for index in error.args[1]]
    return []
