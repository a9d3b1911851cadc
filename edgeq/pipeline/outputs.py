"""What a network gives: class scores or something else, and the tensors on the way that the student is to match."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from edgeq.core.plan import QuantPlan, Role
from edgeq.core.specs import InputSpec
from edgeq.graph.view import GraphView

_SQUASHING = {
    "Sigmoid",
    "HardSigmoid",
    "Tanh",
    "Relu",
    "Clip",
    "LpNormalization",
    "BatchNormalization",
}


def watched_tensors(model: onnx.ModelProto, plan: QuantPlan) -> tuple[tuple[str, ...], str | None]:
    """Return the block outputs that the student is to match, and the last tensor with spatial axes.

    Block outputs are the cut tensors of the graph that the plan quantizes: where it puts no quantizer, the tensor is
    the inside of a fused region.
    """
    from edgeq.graph.cuts import cut_tensors

    view = GraphView(model)
    cuts = cut_tensors(view)
    quantized = {decision.tensor for decision in plan.quantized(Role.ACTIVATION)}
    maps = [
        name
        for name in cuts
        if len(view.shape(name) or ()) == 4
        and all(size != 1 for size in (view.shape(name) or ())[2:])
    ]
    return tuple(name for name in cuts if name in quantized), maps[-1] if maps else None


def count_classes(
    model: onnx.ModelProto, outputs: dict[str, NDArray[Any]], specs: Sequence[InputSpec]
) -> tuple[int | None, tuple[str, ...]]:
    """Return the number of classes of the first output, or None and what follows from it in words.

    Class scores are [N, classes] with at least two, neither squashed nor normalised, and of another shape than a vector
    that enters (which an autoencoder gives back). So are probabilities, if those of a sample add up to 1: the scores
    are what enters their Softmax.
    """
    name, output = next(iter(outputs.items()))
    is_vector = output.dtype.kind == "f" and output.ndim == 2 and output.shape[1] > 1
    is_copy = output.shape[1:] in {spec.shape for spec in specs}
    if is_vector and not is_copy and not _is_squashed(GraphView(model), name, output):
        return output.shape[1], ()
    shape = "x".join(map(str, output.shape[1:]))
    finding = f"output '{name}' {shape} gives no class scores: label terms are off, outputs and features are matched"
    return None, (finding,)


def _is_squashed(view: GraphView, tensor: str, values: NDArray[Any]) -> bool:
    """Return true if a function that no class score goes through makes `tensor`, seen through changes of its shape."""
    from edgeq.teacher.logits import SHAPE_CHANGERS

    node = view.producer(tensor)
    while node is not None and node.op_type in SHAPE_CHANGERS:
        node = view.producer(node.input[0])
    if node is not None and node.op_type == "Softmax":
        return not np.allclose(values.sum(1, dtype=np.float64), 1, atol=0.01)
    if node is None or node.op_type != "Div":
        return node is None or node.op_type in _SQUASHING
    return view.constant(node.input[1]) is None
