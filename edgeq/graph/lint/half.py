"""Checks of types under strong typing, where every node runs in the type that the file has.

Source: deployment/tensorrt.md 2.1, 2.6, 9.
"""

from __future__ import annotations

from collections.abc import Iterator

import onnx
from onnx import TensorProto

from edgeq.core.specs import GraphFlavour, TargetCard
from edgeq.graph.lint.check import DQ, LintView, Q, Severity, lint_check
from edgeq.graph.lint.scales import element_type
from edgeq.graph.placement.flow import WEIGHTED
from edgeq.graph.view import node_id

_HALVES = frozenset({int(TensorProto.FLOAT16), int(TensorProto.BFLOAT16)})


@lint_check(
    "typing.scale",
    why="under strong typing a scale has the type of what is quantized with it",
    mend="store the scale in the type of the data, or put a Cast in front of the Q",
)
def check_scale_type(view: LintView, card: TargetCard) -> Iterator[tuple[str, str]]:
    """Find Q nodes whose scale has another type than their data (ONNX itself forbids it below opset 23)."""
    for node in view.each(Q):
        kinds = [element_type(view, name) for name in node.input[:2]]
        if 0 not in kinds and kinds[0] != kinds[1]:
            yield node_id(node), f"data of {_word(kinds[0])} and a scale of {_word(kinds[1])}"


@lint_check(
    "typing.float32-graph",
    severity=Severity.WARNING,
    why="this TensorRT is strongly typed by default or alone: what is not quantized runs in FP32",
    mend="build with --flavour fp16-typed; or pass trtexec --int8 --fp16, deprecated since TensorRT 10.12, gone in 11",
)
def check_flavour(view: LintView, card: TargetCard) -> Iterator[tuple[str, str]]:
    """Find Q/DQ models without a tensor of half precision, for targets that are best served with one."""
    if card.flavour is not GraphFlavour.FP16_TYPED or not list(view.each(Q, DQ)):
        return
    if not any(view.element_type(name) in _HALVES for node in view.nodes for name in node.output):
        yield "", "the graph is FP32-typed"


@lint_check(
    "typing.float32-kernel",
    severity=Severity.WARNING,
    why="between FP16 layers it costs Casts, and runs at half the rate where it is not quantized",
    mend="none is needed if its values leave the range of FP16; else give it FP16 weights and scales",
)
def check_kernels(view: LintView, card: TargetCard) -> Iterator[tuple[str, str]]:
    """Find convolutions and products in FP32 in a graph that is FP16 elsewhere."""
    kinds = {node_id(node): view.element_type(node.output[0]) for node in view.each(*WEIGHTED)}
    if _HALVES.isdisjoint(kinds.values()):
        return
    for name, kind in kinds.items():
        if kind == TensorProto.FLOAT:
            yield name, "it computes in FP32, others in FP16"


def _word(kind: int) -> str:
    return str(onnx.TensorProto.DataType.Name(kind))
