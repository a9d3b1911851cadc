"""The parts of a build that need neither statistics nor a teacher: read, settle the flavour, fold and place."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import onnx

from edgeq.core.errors import ModelError
from edgeq.core.plan import QuantPlan
from edgeq.core.specs import GraphFlavour, InputSpec, TargetCard
from edgeq.graph.inputs import InputReport
from edgeq.graph.read import LoadedModel
from edgeq.graph.view import GraphView
from edgeq.pipeline.options import BuildOptions

# Checks of the lint whose findings no quantizer makes or mends.
_OF_THE_NETWORK = frozenset({"model.operator", "model.shapes", "model.unsupported-form"})


def settle_flavour(options: BuildOptions, card: TargetCard) -> BuildOptions:
    """Return the options with the flavour that DLA needs; raise if the target cannot do what was asked.

    Raises:
        EdgeqError: see `choose_flavour` and `deploy.dla.require_dla`.
    """
    from deploy.dla import require_dla
    from deploy.flavours import choose_flavour

    choose_flavour(card, options.flavour)
    if not options.for_dla:
        return options
    require_dla(card, flavour=options.flavour, bits=options.bits)
    return dataclasses.replace(options, flavour=GraphFlavour.FP32_TYPED)


def read_model(options: BuildOptions) -> tuple[LoadedModel, tuple[InputReport, ...]]:
    """Return the checked model and its inputs, in file order.

    Raises:
        InputError: if there is no such file, or the preprocessing does not fit it.
        ModelError: if the file, or an input of it, is not what edgeq works on.
    """
    from edgeq.graph.inputs import describe_inputs
    from edgeq.graph.read import load_model

    loaded = load_model(options.model)
    reports = describe_inputs(
        loaded.inferred,
        preset=options.preset,
        mean=options.mean or None,
        std=options.std or None,
        bounds=(options.bounds[0], options.bounds[1]) if options.bounds else None,
        shapes=options.shapes,
    )
    return loaded, reports


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """A model with BatchNormalization folded, and where its quantizers go.

    Attributes:
        model: what Q/DQ is written into.
        inferred: the same with inferred shapes.
        plan: the placement.
        findings: what could not be folded, one sentence each.
    """

    model: onnx.ModelProto
    inferred: onnx.ModelProto
    plan: QuantPlan
    findings: tuple[str, ...]


def place(
    options: BuildOptions, card: TargetCard, loaded: LoadedModel, specs: Sequence[InputSpec]
) -> Placed:
    """Fold and plan; neither statistics nor the teacher are needed.

    Raises:
        EdgeqError: if the model cannot be folded, placed or written, or if the target's parser would refuse it.
    """
    from edgeq.graph.batchnorm import fold_batchnorm
    from edgeq.graph.fold_constants import fold_constants
    from edgeq.graph.infer_ranks import infer_shapes
    from edgeq.graph.placement import plan_placement
    from edgeq.graph.spread_biases import spread_biases

    fold = fold_batchnorm(spread_biases(fold_constants(loaded.model).model).model)
    _require_parsable(fold.model, card)
    inferred = infer_shapes(fold.model)
    plan = plan_placement(
        inferred, card=card, bits=options.bits, inputs=specs, for_dla=options.for_dla
    )
    return Placed(
        model=fold.model, inferred=inferred, plan=plan, findings=_tell_unfolded(fold.findings)
    )


def _require_parsable(model: onnx.ModelProto, card: TargetCard) -> None:
    """Raise for what the writer or the lint of its file would refuse after the training: Q/DQ nodes change none of it.

    Raises:
        ModelError: with the first ones, and how many there are, or if an old opset cannot be raised.
    """
    from edgeq.graph.convert_opset import convert_opset
    from edgeq.graph.findings import listed
    from edgeq.graph.fit_target import QDQ_OPSET
    from edgeq.graph.lint import lint

    if GraphView(model).opset < QDQ_OPSET:
        convert_opset(model, QDQ_OPSET)
    found = [finding for finding in lint(model, card) if finding.check in _OF_THE_NETWORK]
    if found:
        raise ModelError(
            f"{card.title} would refuse the model: {listed([item.what for item in found])}",
            why=found[0].why,
            mend=found[0].mend,
        )


def _tell_unfolded(findings: tuple[str, ...]) -> tuple[str, ...]:
    """Return the findings of `fold_batchnorm`, as one if they are many: some networks keep a node in every block."""
    if len(findings) < 2:
        return findings
    return (
        f"{len(findings)} BatchNormalizations cannot be folded and stay nodes of their own; the first: {findings[0]}",
    )
