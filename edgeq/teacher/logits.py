"""The class scores that a closing Softmax hides. Entry: `give_logits`.

Distillation, labels and class activation maps are defined on scores before the softmax. Softmax of probabilities is
nearly uniform: a network of K classes gives its top class e / (e + K - 1) at most, and no sample is ever sure.
"""

from __future__ import annotations

import dataclasses

from torch import fx

from edgeq.teacher.teacher import Teacher

# Operators that leave values as they are.
SHAPE_CHANGERS = frozenset(
    {"Identity", "Flatten", "Reshape", "Squeeze", "Unsqueeze", "Cast", "Dropout"}
)


def give_logits(teacher: Teacher) -> Teacher:
    """Return a teacher whose first output is what enters the Softmax that ends it; `teacher` where none does.

    What changes the shape behind the Softmax is applied to the scores, so the shape of the output stays. Other outputs
    stay too, and so does the Softmax where they need it.
    """
    given = teacher.copy()
    graph = given.module.graph
    end = graph.output_node()
    node = first = end.all_input_nodes[0]
    behind: list[fx.Node] = []
    while node.meta.get("onnx_op") in SHAPE_CHANGERS:
        behind.append(node)
        node = node.all_input_nodes[0]
    if node.meta.get("onnx_op") != "Softmax":
        return teacher
    scores = node.all_input_nodes[0]
    with graph.inserting_before(end):
        for link in reversed(behind):
            others = {item: item for item in link.all_input_nodes}
            read = {**others, link.all_input_nodes[0]: scores}
            scores = graph.node_copy(link, read.__getitem__)
    end.replace_input_with(first, scores)
    given.module.recompile()
    if first.users:  # the name stays with what other nodes read
        return given
    places = {**given.fx_node_of, given.outputs[0]: scores.name}
    return dataclasses.replace(given, fx_node_of=places)
