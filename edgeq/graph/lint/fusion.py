"""Checks of where Q/DQ pairs stand, by what TensorRT is documented to fuse."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx

from edgeq.core.specs import TargetCard
from edgeq.graph.lint.check import DQ, LintView, Q, Severity, lint_check
from edgeq.graph.lint.scales import is_packed
from edgeq.graph.placement.flow import WEIGHTED, value_readers
from edgeq.graph.view import node_id

_EPILOGUE = frozenset(
    {
        "BatchNormalization",
        "Clip",
        "Elu",
        "HardSigmoid",
        "HardSwish",
        "LeakyRelu",
        "PRelu",
        "Relu",
        "Sigmoid",
        "Tanh",
    }
)
_GATES = frozenset({"HardSigmoid", "Sigmoid"})


@lint_check(
    "fusion.both-operands",
    why="a layer with one INT8 and one float operand has no kernel; it runs in float with extra conversions or fails",
    mend="quantize activation and weight, or neither",
)
def check_both_operands(view: LintView, card: TargetCard) -> Iterator[tuple[str, str]]:
    """Find weighted nodes with exactly one quantized operand, other than weights of 4 bits."""
    for node in view.each(*WEIGHTED):
        pairs = [view.dequantizer(name) for name in node.input[:2]]
        quantized = [pair is not None for pair in pairs]
        if pairs[1] is not None and is_packed(view, pairs[1]):
            continue  # weight-only: the activation stays float
        if any(quantized) and not all(quantized):
            words = "activation" if quantized[0] else "weight"
            yield node_id(node), f"only the {words} of this {node.op_type} is quantized"


@lint_check(
    "fusion.epilogue",
    severity=Severity.WARNING,
    why="a Q/DQ pair between a layer and its activation keeps the two from becoming one kernel",
    mend="move the pair behind the activation",
)
def check_epilogue(view: LintView, card: TargetCard) -> Iterator[tuple[str, str]]:
    """Find pairs between a weighted node and BatchNorm or activation, and around the gate of a SiLU."""
    for quantizer, readers in _pairs(view):
        maker = view.producer(quantizer.input[0])
        if maker is None:
            continue
        for reader in readers:
            if maker.op_type in WEIGHTED and reader.op_type in _EPILOGUE:
                yield (
                    node_id(quantizer),
                    f"it stands between {maker.op_type} '{node_id(maker)}' and {reader.op_type} '{node_id(reader)}'",
                )
            elif _is_silu(view, maker, reader):
                yield (
                    node_id(quantizer),
                    f"it stands inside the activation x * {maker.op_type}(x) at '{node_id(reader)}'",
                )


@lint_check(
    "fusion.residual",
    severity=Severity.WARNING,
    why="layer and residual Add become one INT8 kernel only if exactly the shortcut is quantized",
    mend="quantize the shortcut operand only, and let nothing else read the layer's own output",
)
def check_residual(view: LintView, card: TargetCard) -> Iterator[tuple[str, str]]:
    """Find residual Adds with both operands quantized or none, or whose branch has a second reader."""
    for node in view.each("Add"):
        if any(view.constant_root(name) is not None for name in node.input):
            continue
        what = _residual_fault(view, node)
        if what:
            yield node_id(node), what


@lint_check(
    "fusion.concat",
    severity=Severity.WARNING,
    why="only pairs with bit-equal scales cancel around a Concat; others cost a requantizing kernel each",
    mend="give all its inputs one scale, the largest of them",
)
def check_concat(view: LintView, card: TargetCard) -> Iterator[tuple[str, str]]:
    """Find Concats of quantized tensors whose scales differ."""
    for node in view.each("Concat"):
        makers = [view.dequantizer(name) for name in node.input]
        scales = [view.operand(maker, 1) for maker in makers if maker is not None]
        known = {np.asarray(scale).tobytes() for scale in scales if scale is not None}
        if len(scales) == len(node.input) and len(known) > 1:
            yield node_id(node), f"{len(node.input)} inputs with {len(known)} different scales"


@lint_check(
    "fusion.output",
    severity=Severity.WARNING,
    why="a pair behind the last layer costs a kernel and a rounding, and serves nobody",
    mend="remove the pair from the model's output",
)
def check_output(view: LintView, card: TargetCard) -> Iterator[tuple[str, str]]:
    """Find model outputs that a DQ makes."""
    for name in view.outputs:
        maker = view.producer(name)
        if maker is not None and maker.op_type == DQ:
            yield node_id(maker), f"the model's output '{name}' is quantized"


def _residual_fault(view: LintView, add: onnx.NodeProto) -> str:
    """Return what keeps `add` from fusing with the INT8 layer in front of it; empty if nothing, or no such layer."""
    sources = [view.source(name) for name in add.input]
    branches = [
        name
        for name in sources
        if view.int8_kernel(name) is not None and len(list(value_readers(view, name))) == 1
    ]
    if view.shape(sources[0]) != view.shape(sources[1]):
        return ""  # a broadcast Add does not fuse anyway
    floats = [name for name in add.input if view.dequantizer(name) is None]
    if len(floats) == 1:
        kernel = view.int8_kernel(floats[0])
        if kernel is not None and floats[0] not in branches:
            return f"{kernel.op_type} '{node_id(kernel)}' in front of this residual Add has a second reader"
        if kernel is None and branches:
            return (
                "the layer's own output is quantized in this residual Add, and its shortcut is not"
            )
        return ""
    if branches:
        return f"{'neither operand' if floats else 'both operands'} of this residual Add quantized"
    return ""


def _pairs(view: LintView) -> Iterator[tuple[onnx.NodeProto, list[onnx.NodeProto]]]:
    """Yield every Q with the nodes that read the DQs behind it."""
    for quantizer in view.each(Q):
        yield (
            quantizer,
            [
                reader
                for dequantizer, _ in view.consumers(quantizer.output[0])
                if dequantizer.op_type == DQ
                for reader, _ in view.consumers(dequantizer.output[0])
            ],
        )


def _is_silu(view: LintView, maker: onnx.NodeProto, reader: onnx.NodeProto) -> bool:
    """Return true if `maker` is the gate of `reader`, a product of x and a sigmoid of the same x."""
    if maker.op_type not in _GATES or reader.op_type != "Mul":
        return False
    gated = view.source(maker.input[0])
    return gated in {view.source(name) for name in reader.input}
