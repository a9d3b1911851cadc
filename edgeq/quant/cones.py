"""Parts of a graph: what computes some tensors from some others."""

from __future__ import annotations

from collections.abc import Sequence

from torch import fx


def closes(module: fx.GraphModule, start: Sequence[str], end: Sequence[str]) -> bool:
    """Return true if the nodes `end` can be computed from the nodes `start` and parameters alone."""
    return all(node.op != "placeholder" for node in _between(module, start, end))


def cone(module: fx.GraphModule, start: Sequence[str], end: Sequence[str]) -> fx.GraphModule:
    """Return the part of `module` that computes `end` from `start`; it shares parameters and submodules.

    Args:
        module: stays as it is.
        start: names of the fx nodes whose values are given.
        end: names of the fx nodes whose values are wanted.

    Returns:
        part: takes the values of `start`, returns a tuple of those of `end`.

    Raises:
        ValueError: if the part also needs an input of `module`; see `closes`.
    """
    needed = _between(module, start, end)
    graph = fx.Graph()
    nodes = {node.name: node for node in module.graph.nodes}
    copies = {nodes[name]: graph.placeholder(name) for name in start}
    for node in module.graph.nodes:
        if node in needed:
            if node.op == "placeholder":
                msg = f"'{node.name}' is needed for {list(end)} beside {list(start)}"
                raise ValueError(msg)
            copies[node] = graph.node_copy(node, lambda item: copies[item])
    graph.output(tuple(copies[nodes[name]] for name in end))
    return fx.GraphModule(module, graph)


def _between(module: fx.GraphModule, start: Sequence[str], end: Sequence[str]) -> set[fx.Node]:
    """Return the nodes that are needed for `end`, looked for up to `start`, which are left out."""
    nodes = {node.name: node for node in module.graph.nodes}
    stops = {nodes[name] for name in start}
    needed: set[fx.Node] = set()
    waiting = [nodes[name] for name in end]
    while waiting:
        node = waiting.pop()
        if node not in needed and node not in stops:
            needed.add(node)
            waiting += node.all_input_nodes
    return needed
