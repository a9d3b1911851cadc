"""Average pools take INT8 in and give INT8 out, or stay float; MaxPool lets Q and DQ pass.

Source: TensorRT developer guide, processing of Q/DQ networks: a layer without weights that has an INT8 input must
have an INT8 output; MaxPool commutes with quantization, AveragePool does not.
"""

from __future__ import annotations

import numpy as np
import onnx

from edgeq.core.specs import TargetCard
from edgeq.graph.placement.flow import quantized_reads
from edgeq.graph.placement.rule import PlacementView, Wish, label, placement_rule, site_of
from edgeq.graph.view import GraphView, attribute


@placement_rule("average pool", "AveragePool", "GlobalAveragePool", "ReduceMean")
def quantize_average_pool(
    view: PlacementView, node: onnx.NodeProto, card: TargetCard
) -> list[Wish]:
    """Quantize the input of a pool whose output is read quantized by every reader; leave it float otherwise.

    A ReduceMean counts as a pool if it averages exactly the spatial axes.
    """
    tensor = node.input[0]
    if not view.is_float(tensor) or view.constant_root(tensor) is not None:
        return []
    if node.op_type == "ReduceMean" and not is_spatial_mean(view, node):
        quantize, reason = False, f"{label(node)} averages other axes than the spatial ones"
    elif quantized_reads(view, node.output[0], through_clamps=True):
        quantize, reason = True, f"input of {label(node)}, whose output is read quantized too"
    else:
        quantize = False
        reason = f"{label(node)} stays float: INT8 in needs INT8 out, and its output is not read quantized everywhere"
    return [
        Wish(
            tensor=tensor,
            site=site_of(node, 0),
            quantize=quantize,
            rule="average pool",
            reason=reason,
        )
    ]


@placement_rule("max pool", "MaxPool", "GlobalMaxPool")
def pass_max_pool(view: PlacementView, node: onnx.NodeProto, card: TargetCard) -> list[Wish]:
    """Leave a maximum pool alone: it commutes with Q and DQ, so its reader's Q moves in front of it."""
    return [
        Wish(
            tensor=node.input[0],
            site=site_of(node, 0),
            quantize=False,
            rule="max pool",
            reason=f"{label(node)} commutes with Q and DQ, so it needs none of its own",
        )
    ]


def is_spatial_mean(view: GraphView, node: onnx.NodeProto) -> bool:
    """Return true if a ReduceMean averages all axes behind N and C, and no other."""
    shape = view.shape(node.input[0])
    axes = attribute(node, "axes")
    if axes is None and len(node.input) > 1 and node.input[1]:
        axes = view.constant(node.input[1])
    if shape is None or axes is None:
        return False
    rank = len(shape)
    wanted = {int(axis) % rank for axis in np.asarray(axes).reshape(-1)}
    return rank > 2 and wanted == set(range(2, rank))
