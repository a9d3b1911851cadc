"""Concat: all parts and the result have one scale, so that TensorRT copies INT8 without rescaling.

Source: TensorRT developer guide: data movement commutes when scales are equal; DQ-Q pairs cancel only if the scales
are bit-equal. It costs accuracy where the parts' ranges differ.
"""

from __future__ import annotations

import onnx

from edgeq.core.specs import TargetCard
from edgeq.graph.placement.flow import quantized_reads
from edgeq.graph.placement.rule import PlacementView, Wish, label, placement_rule, site_of


@placement_rule("concat", "Concat")
def quantize_concat(view: PlacementView, node: onnx.NodeProto, card: TargetCard) -> list[Wish]:
    """Quantize all parts with the scale of the result if every reader of the result is quantized; else none."""
    if not all(view.is_float(name) for name in node.input):
        return []
    readers = quantized_reads(view, node.output[0])
    has_constant = any(view.constant_root(name) is not None for name in node.input)
    quantize = bool(readers) and not has_constant
    if quantize:
        reason = f"part of {label(node)}: parts and result have one scale, so nothing is rescaled"
    elif has_constant:
        reason = f"{label(node)} has a constant part, so the parts cannot have one scale"
    else:
        reason = f"{label(node)} stays float: its result is not read quantized everywhere"
    partners = tuple(dict.fromkeys((*node.input, *readers)))
    return [
        Wish(
            tensor=name,
            site=site_of(node, index),
            quantize=quantize,
            rule="concat",
            reason=reason,
            shares=partners if quantize else (),
        )
        for index, name in enumerate(node.input)
        if view.constant_root(name) is None
    ]
