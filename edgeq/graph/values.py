"""Are the numbers of a model usable: finite weights, variances that are no less than zero.

Entry: `check_values`, for a model whose structure, storage and ONNX schema were checked before.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto

from edgeq.graph.findings import require_none
from edgeq.graph.storage import walk_graph_tensors
from edgeq.graph.structure import walk_graphs
from edgeq.graph.view import GraphView, node_id, to_array

_FLOATS = (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16)

# A gigabyte in float32: the largest tensors of networks for edge devices have some 10 million elements.
ELEMENTS_MAX = 2**28

# Here an infinity is no damaged weight: an open bound, or what padding and masks are filled with.
_MAY_READ_INFINITY = frozenset({"Attention", "Clip", "Max", "Min", "Pad", "Where"})
# An attention mask is -inf where nothing may be seen, and is added to the scores.
_MAY_READ_MINUS_INFINITY = _MAY_READ_INFINITY | {"Add"}


def check_values(model: onnx.ModelProto, path: Path) -> None:
    """Raise for impossible BatchNormalization statistics, then for weights that are not finite.

    Raises:
        ModelError: with every node, or every tensor, of that kind.
    """
    _check_variances(model, path)
    _check_finite(model, path)


def check_extents(inferred: onnx.ModelProto, path: Path) -> None:
    """Raise if a tensor that the model computes is too large to be computed; dynamic axes count as 1.

    Args:
        inferred: with inferred shapes.
        path: the model's file.

    Raises:
        ModelError: with all such tensors.
    """
    view = GraphView(inferred)
    sizes = {
        name: math.prod(abs(size or 1) for size in view.shape(name) or ())
        for node in view.nodes
        for name in node.output
    }
    require_none(
        [f"'{name}' ({size:.3g} elements)" for name, size in sizes.items() if size > ELEMENTS_MAX],
        f"tensors of more than {ELEMENTS_MAX:.3g} elements",
        why="the model would need more memory than an edge device or this machine has for one tensor",
        mend="check the sizes in Expand, Tile, Pad, Resize and ConstantOfShape nodes; the file may be damaged",
        path=path,
    )


def _check_variances(model: onnx.ModelProto, path: Path) -> None:
    view = GraphView(model)
    faults = []
    for node in view.nodes:
        if node.op_type != "BatchNormalization":
            continue
        variance = view.constant(node.input[4])
        if variance is not None:
            bad = _count_impossible(variance)
            if bad:
                faults.append(f"'{node_id(node)}' ({bad} of {variance.size} channels)")
    require_none(
        faults,
        "BatchNormalization nodes whose running variance is negative or NaN",
        why="edgeq reads the training data's statistics there; the training has diverged or the file is damaged",
        mend="export a checkpoint from before the statistics broke, or train again",
        path=path,
    )


def _count_impossible(variance: NDArray[Any]) -> int:
    """Return how many values are negative, NaN, or no numbers at all."""
    if variance.dtype.kind not in "fiuV":  # V: bfloat16
        return variance.size
    return int(np.sum(~(variance >= 0)))


def _check_finite(model: onnx.ModelProto, path: Path) -> None:
    readers: dict[str, set[str]] = {}
    for graph in walk_graphs(model.graph):
        for node in graph.node:
            for name in node.input:
                readers.setdefault(name, set()).add(node.op_type)
    faults = []
    for name, tensor in walk_graph_tensors(model.graph):
        if tensor.data_type not in _FLOATS:
            continue
        values = to_array(tensor)
        if np.all(np.isfinite(values)):
            continue
        nans = int(np.sum(np.isnan(values)))
        infinities = int(np.sum(np.isinf(values)))
        read_by = readers.get(name, set())
        is_mask = not np.any(values == np.inf)
        allowed = _MAY_READ_MINUS_INFINITY if is_mask else _MAY_READ_INFINITY
        if nans or not read_by or not read_by <= allowed:
            faults.append(f"'{name}' ({nans} NaN, {infinities} infinite, of {values.size})")
    require_none(
        faults,
        "weights that are NaN or infinite",
        why="nothing can be learned or measured from a network that computes no numbers",
        mend="export a checkpoint from before the training diverged; a damaged file must be copied again",
        path=path,
    )
