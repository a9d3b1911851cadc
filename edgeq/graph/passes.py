"""What a graph pass returns."""

from __future__ import annotations

from dataclasses import dataclass

import onnx


@dataclass(frozen=True, slots=True, kw_only=True)
class PassResult:
    """Outcome of one pass.

    Attributes:
        model: the resulting model; a new object where anything changed, the one passed in otherwise.
        changed: whether it differs from the model passed in.
        touched: names of nodes (first outputs) and tensors that were changed, made or removed.
        findings: what a user should know, one sentence each.
    """

    model: onnx.ModelProto
    changed: bool
    touched: tuple[str, ...] = ()
    findings: tuple[str, ...] = ()
