"""Where a graph can be cut in two: the tensors through which everything from the input to the outputs passes."""

from __future__ import annotations

from edgeq.graph.view import GraphView

# These read a tensor's shape and none of its data.
_SHAPE_READERS = {"Shape", "Size"}


def cut_tensors(view: GraphView) -> tuple[str, ...]:
    """Return the activation tensors that alone carry the data at some point of the running order.

    These are the articulation tensors of the graph, and so the outputs of its blocks: the inside of a residual block
    has two live tensors (main branch and shortcut), its end has one. Tensors that depend on constants or on shapes
    alone do not count. Graph inputs and outputs are left out.
    """
    last_use: dict[str, int] = {}
    for position, node in enumerate(view.nodes):
        if node.op_type not in _SHAPE_READERS:
            last_use.update(dict.fromkeys(node.input, position))
    for name in view.outputs:
        last_use[name] = len(view.nodes)
    live = {name for name in view.inputs if name in last_use}
    cuts: list[str] = []
    data = set(live)
    for position, node in enumerate(view.nodes):
        carries = node.op_type not in _SHAPE_READERS and any(name in data for name in node.input)
        for name in node.output:
            if name in last_use and carries:
                data.add(name)
                live.add(name)
        live = {name for name in live if last_use[name] > position}
        if carries and len(live) == 1:
            (cut,) = live
            if cut not in view.outputs and cut not in view.inputs and cut not in cuts:
                cuts.append(cut)
    return tuple(cuts)
