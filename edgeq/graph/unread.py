"""Find and remove what no node reads any more after an edit."""

from __future__ import annotations

from collections.abc import Iterable

import onnx


def names_read(graph: onnx.GraphProto) -> set[str]:
    """Return every tensor that a node of `graph` or of a subgraph reads, and the graph's outputs."""
    found = {item.name for item in graph.output}
    for node in graph.node:
        found.update(node.input)
        for item in node.attribute:
            if item.type == onnx.AttributeProto.GRAPH:
                found |= names_read(item.g)
            for subgraph in item.graphs:
                found |= names_read(subgraph)
    return found


def remove_unread(graph: onnx.GraphProto, candidates: Iterable[str]) -> list[str]:
    """Remove the constants among `candidates` that nothing reads, with the Identity nodes that only pass them on.

    Args:
        graph: changed in place.
        candidates: initializers, outputs of Constant nodes, and outputs of Identity nodes over such.

    Returns:
        The names that are gone.
    """
    waiting = set(candidates)
    gone: list[str] = []
    while unread := waiting - names_read(graph):
        gone += sorted(unread)
        waiting -= unread
        # Graph inputs too: IR versions below 4 list the initializers there.
        for items in (graph.initializer, graph.input, graph.value_info):
            for index in reversed(range(len(items))):
                if items[index].name in unread:
                    del items[index]
        for index in reversed(range(len(graph.node))):
            if unread.intersection(graph.node[index].output):
                del graph.node[index]
    return gone


def remove_dead(graph: onnx.GraphProto, candidates: set[str]) -> set[str]:
    """Remove the nodes that make `candidates` and that nothing reads any more, then those that only these read.

    Args:
        graph: changed in place.
        candidates: outputs of nodes.

    Returns:
        What the removed nodes read.
    """
    gone: set[str] = set()
    waiting = candidates
    while waiting:
        read = names_read(graph)
        dead = [
            node
            for node in graph.node
            if waiting & set(node.output) and not read & set(node.output)
        ]
        waiting = {name for node in dead for name in node.input}
        gone |= waiting
        for node in dead:
            graph.node.remove(node)
    return gone
