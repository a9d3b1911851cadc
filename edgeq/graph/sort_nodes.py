"""Nodes in running order, which ONNX demands and some tools do not keep. Entry: `sort_nodes`."""

from __future__ import annotations

import onnx

from edgeq.graph.structure import names_read_by, walk_graphs


def sort_nodes(graph: onnx.GraphProto) -> int:
    """Put nodes in front of the first one that reads them, in place, and leave all others where they are.

    Inner graphs are sorted, too. ONNX Runtime and TensorRT's parser take such files; ONNX's own float16 converters
    write them where a graph keeps float32 inputs.

    Returns:
        How many nodes stood behind a reader of theirs; 0 where nothing was done. A graph with a cycle stays as it is.
    """
    # Inner graphs first: sorting copies the nodes, and the graphs in them.
    return sum(_sort(nested) for nested in reversed([*walk_graphs(graph)]))


def _sort(graph: onnx.GraphProto) -> int:
    maker = {name: index for index, node in enumerate(graph.node) for name in node.output if name}
    needs = [
        [maker[name] for name in sorted(names_read_by(node)) if name in maker]
        for node in graph.node
    ]
    late = {maker for reader, makers in enumerate(needs) for maker in makers if maker > reader}
    if not late or (order := _order(needs)) is None:
        return 0
    ordered = onnx.GraphProto(node=[graph.node[index] for index in order])
    graph.ClearField("node")
    graph.node.extend(ordered.node)
    return len(late)


def _order(needs: list[list[int]]) -> list[int] | None:
    """Return the nodes, each behind those that it needs; None for a cycle."""
    order: list[int] = []
    placed, opened = set[int](), set[int]()
    for first in range(len(needs)):
        stack = [first]
        while stack:
            node = stack[-1]
            waiting = [item for item in needs[node] if item not in placed]
            if node in placed or not waiting:
                stack.pop()
                if node not in placed:
                    placed.add(node)
                    order.append(node)
            elif node in opened:
                return None
            else:
                opened.add(node)
                stack += sorted(waiting, reverse=True)
    return order
