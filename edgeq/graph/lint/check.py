"""What a lint check is, and what it finds."""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray

from edgeq.core.registry import Registry
from edgeq.core.serial import Spec
from edgeq.core.specs import TargetCard
from edgeq.graph.placement.flow import WEIGHTED, moved_from
from edgeq.graph.view import GraphView

Q, DQ = "QuantizeLinear", "DequantizeLinear"


class Severity(enum.Enum):
    """How bad a finding is."""

    ERROR = "error"  # the target would not parse or build it, or would compute something else
    WARNING = "warning"  # it runs, but slower than it could, or needs care


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding(Spec):
    """One fault of one node or tensor.

    Attributes:
        check: id of the check, for instance "qdq.zero-point".
        severity: error or warning.
        node: node (by its first output) or tensor; empty for the model as a whole.
        what: the fault, with names and numbers.
        why: what it leads to.
        mend: what to do.
    """

    check: str
    severity: Severity
    node: str
    what: str
    why: str
    mend: str


class LintView(GraphView):
    """A `GraphView` with the questions that checks of Q/DQ nodes ask.

    Attributes:
        original: the model as it was given, without inferred shapes.
    """

    def __init__(self, model: onnx.ModelProto, original: onnx.ModelProto) -> None:
        super().__init__(model)
        self.original = original

    def each(self, *ops: str) -> Iterator[onnx.NodeProto]:
        """Yield the nodes of the operators `ops`, in file order."""
        return (node for node in self.nodes if node.op_type in ops)

    def operand(self, node: onnx.NodeProto, index: int) -> NDArray[np.generic] | None:
        """Return the constant at an input of `node`; None if it is absent, computed, or text."""
        present = len(node.input) > index and node.input[index]
        value = self.constant(node.input[index]) if present else None
        return None if value is None or value.dtype.kind in "OSU" else value

    def dequantizer(self, tensor: str) -> onnx.NodeProto | None:
        """Return the DQ that makes `tensor`, looked for through data movement; None if it is float."""
        for name in (tensor, *moved_from(self, tensor)):
            node = self.producer(name)
            if node is not None and node.op_type == DQ:
                return node
        return None

    def source(self, tensor: str) -> str:
        """Return the float tensor behind a Q/DQ pair that ends in `tensor`, or `tensor` itself."""
        dequantizer = self.producer(tensor)
        if dequantizer is None or dequantizer.op_type != DQ:
            return tensor
        quantizer = self.producer(dequantizer.input[0])
        if quantizer is None or quantizer.op_type != Q:
            return tensor
        return str(quantizer.input[0])

    def int8_kernel(self, tensor: str) -> onnx.NodeProto | None:
        """Return the weighted node that makes `tensor` directly and whose two operands are quantized, else None."""
        node = self.producer(tensor)
        if node is None or node.op_type not in WEIGHTED:
            return None
        return node if all(self.dequantizer(name) is not None for name in node.input[:2]) else None


# A check yields (node or tensor name, what is wrong).
CheckFunction = Callable[[LintView, TargetCard], Iterable[tuple[str, str]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """A registered check: its id, severity, why it matters, how to mend, the function, and where it holds.

    Attributes:
        everywhere: if false the rule is one of `runtime`, and other runtimes do not have it.
    """

    name: str
    severity: Severity
    why: str
    mend: str
    find: CheckFunction
    everywhere: bool
    runtime: str = "tensorrt"

    def run(self, view: LintView, card: TargetCard) -> Iterator[Finding]:
        """Yield what the check finds."""
        if not self.everywhere and card.runtime != self.runtime:
            return
        for node, what in self.find(view, card):
            yield Finding(
                check=self.name,
                severity=self.severity,
                node=node,
                what=what,
                why=self.why,
                mend=self.mend,
            )


CHECKS: Registry[Check] = Registry("lint check")


def lint_check(
    name: str,
    *,
    why: str,
    mend: str,
    severity: Severity = Severity.ERROR,
    everywhere: bool = False,
    runtime: str = "tensorrt",
) -> Callable[[CheckFunction], CheckFunction]:
    """Return a decorator that files a check under `name`."""

    def add(function: CheckFunction) -> CheckFunction:
        CHECKS.register(name)(
            Check(
                name=name,
                severity=severity,
                why=why,
                mend=mend,
                find=function,
                everywhere=everywhere,
                runtime=runtime,
            )
        )
        return function

    return add
