"""Check a Q/DQ model against the rules of the target's parser, without the target: `lint`.

Each family of checks has one file; importing this package fills `CHECKS`. What no check can tell is whether the builder
finds a kernel, what really fuses, and how fast it is.
"""

from __future__ import annotations

import onnx

from edgeq.core.errors import ModelError
from edgeq.core.specs import TargetCard
from edgeq.graph.fold_constants import fold_bounds
from edgeq.graph.infer_ranks import infer_shapes
from edgeq.graph.lint import container, formats, forms, fusion, half, integer, pairs, scales
from edgeq.graph.lint.check import CHECKS, Check, Finding, LintView, Severity
from edgeq.graph.lint.container import EXTERNAL_DATA

__all__ = ["CHECKS", "Check", "Finding", "Severity", "lint"]

CHECK_FAMILIES = (container, forms, scales, formats, half, pairs, fusion, integer)


def lint(model: onnx.ModelProto, card: TargetCard) -> tuple[Finding, ...]:
    """Return all findings on `model` for the target `card`, errors first, then by check and file order.

    Args:
        model: not changed.
        card: the target.
    """
    missing = tuple(CHECKS.get(EXTERNAL_DATA).run(LintView(model, model), card))
    if missing:
        return missing
    # ONNX's inference errs behind a Slice whose bounds it cannot compute; the parser computes them.
    try:
        bounded = fold_bounds(model).model
    except ModelError:
        bounded = model
    try:
        inferred = infer_shapes(bounded, strict=True)
    except (onnx.shape_inference.InferenceError, ValueError, RuntimeError):
        inferred = model  # the check model.checker reports it
    view = LintView(inferred, model)
    findings = [found for name in CHECKS for found in CHECKS.get(name).run(view, card)]
    return tuple(sorted(findings, key=lambda found: found.severity is Severity.WARNING))
