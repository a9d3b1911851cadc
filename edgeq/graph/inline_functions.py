"""Put the bodies of the functions that a file defines where they are called, with ONNX's own inliner.

Entry: `inline_functions`. How large the result gets is counted before: functions that call functions may grow without
bound from a small file.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import onnx
import onnx.inliner

from edgeq.core.errors import ModelError
from edgeq.graph.structure import walk_graphs

# A network of edge size has some thousands of nodes; the checks and the importer handle this many in minutes.
NODES_MAX = 200_000
# PyTorch's exporter nests one function a module: 20 levels are many.
DEPTH_MAX = 100

_Key = tuple[str, str, str]


def inline_functions(model: onnx.ModelProto, path: Path) -> onnx.ModelProto:
    """Return `model` without calls of functions of its own; the same object if there are none.

    Raises:
        ModelError: for functions that call themselves, nest too deep or unfold into too many nodes, and for bodies that
            ONNX's inliner refuses.
    """
    functions = {(item.domain, item.name, item.overload): item for item in model.functions}
    nodes = [node for graph in walk_graphs(model.graph) for node in graph.node]
    if not any(_key(node) in functions for node in nodes):
        return model
    sizes: dict[_Key, int] = {}
    total = sum(_count(_key(node), functions, sizes, (), path) for node in nodes)
    if total > NODES_MAX:
        raise _unfit(f"unfold into {total:.3g} nodes, more than {NODES_MAX}", path)
    try:
        onnx.checker.check_model(model)
        inlined = onnx.inliner.inline_local_functions(model, convert_version=True)
    except (onnx.checker.ValidationError, RuntimeError, ValueError, IndexError) as error:
        raise _unfit(f"cannot be inlined: {' '.join(str(error).split())}", path) from error
    return inlined


def _key(node: onnx.NodeProto) -> _Key:
    return node.domain, node.op_type, node.overload


def _count(
    key: _Key,
    functions: dict[_Key, onnx.FunctionProto],
    sizes: dict[_Key, int],
    callers: tuple[_Key, ...],
    path: Path,
) -> int:
    """Return the number of nodes that a node of this operator becomes, and remember it in `sizes`."""
    if key not in functions:
        return 1
    if key in callers or len(callers) >= DEPTH_MAX:
        what = "call themselves" if key in callers else f"nest deeper than {DEPTH_MAX}"
        raise _unfit(f"{what}: {key[0]}::{key[1]}", path)
    if key not in sizes:
        sizes[key] = sum(
            _count(_key(node), functions, sizes, (*callers, key), path)
            for node in _walk_nodes(functions[key])
        )
    return sizes[key]


def _walk_nodes(function: onnx.FunctionProto) -> Iterator[onnx.NodeProto]:
    for graph in walk_graphs(onnx.GraphProto(node=function.node)):
        yield from graph.node


def _unfit(fault: str, path: Path) -> ModelError:
    return ModelError(
        f"functions that the file itself defines {fault}",
        why="edgeq works on operators, so it puts the bodies of functions where they are called",
        mend="export the model without functions (torch.onnx.export: export_modules_as_functions=False)",
        path=path,
    )
