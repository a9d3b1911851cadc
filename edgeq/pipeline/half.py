"""FP16 typing as part of a build: ranges from the samples, the pass, and what it cost."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import onnx
from numpy.typing import NDArray

from edgeq.core.samples import SampleSet
from edgeq.core.specs import GraphFlavour, TargetCard
from edgeq.graph.half_rules import Kept
from edgeq.pipeline.job import Job

# On how many samples the ranges are read: more find little that is new.
RANGE_SAMPLES = 128
_NAMED = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Typed:
    """A model in the flavour of its target.

    Attributes:
        model: what ships.
        findings: what the user should know, one sentence each.
        record: the plain form of what was decided.
    """

    model: onnx.ModelProto
    findings: tuple[str, ...]
    record: dict[str, Any]


def type_model(card: TargetCard, twin: onnx.ModelProto, samples: SampleSet) -> Typed:
    """Return the FP32 Q/DQ model `twin` in the flavour of the target `card`.

    Raises:
        NumericsError: if a tensor has NaN or infinity on the samples.
    """
    flavour = card.flavour
    if flavour is not GraphFlavour.FP16_TYPED:
        return Typed(
            model=twin, findings=(), record={"flavour": flavour.value, "half": 0, "kept": []}
        )
    from deploy.ranges import measure_amax
    from edgeq.graph.half_rules import HalfView, choose_full
    from edgeq.graph.infer_ranks import infer_shapes
    from edgeq.graph.type_half import type_half

    inferred = infer_shapes(twin)
    view = HalfView(inferred, {})
    names = [name for name in view.inputs if view.is_float(name)]
    names += [
        name for node in view.nodes if view.is_typed(node) for name in view.float_outputs(node)
    ]
    kept = choose_full(inferred, measure_amax(twin, names, samples, count=RANGE_SAMPLES))
    typed = type_half(twin, kept=kept)
    return Typed(
        model=typed.model,
        findings=tuple(_findings(kept, len(typed.touched))),
        record={
            "flavour": flavour.value,
            "half": len(typed.touched),
            "kept": [item.to_dict() for item in kept],
        },
    )


def measure_typing(
    job: Job, twin: onnx.ModelProto, model: onnx.ModelProto, feed: dict[str, NDArray[Any]]
) -> dict[str, Any] | None:
    """Return how far `model` is from its FP32 twin; None where it is the twin.

    The file itself is run as it is, too, so that one which ONNX Runtime refuses does not ship; but one with bfloat16 at
    its border, which nothing here can feed.
    """
    if job.card.flavour is not GraphFlavour.FP16_TYPED:
        return None
    from deploy.half_agreement import compare_half
    from deploy.onnxrt import Session

    border = [*model.graph.input, *model.graph.output]
    if all(item.type.tensor_type.elem_type != onnx.TensorProto.BFLOAT16 for item in border):
        Session(model, as_written=True).run(feed)
    found = compare_half(twin, model, job.plan, feed)
    return {**found.to_dict(), "largest": found.codes.largest}


def _findings(kept: tuple[Kept, ...], half: int) -> list[str]:
    told = [
        f"the graph is FP16-typed: {half} nodes compute in FP16, inputs and outputs keep their types",
        "ONNX Runtime has to run such a graph with ORT_DISABLE_ALL; its optimiser does not bear FP16 scales",
    ]
    if kept:
        first = "; ".join(f"{item.op_type} '{item.node}': {item.reason}" for item in kept[:_NAMED])
        rest = f"; and {len(kept) - _NAMED} more, in typing.json" if len(kept) > _NAMED else ""
        told.append(f"{len(kept)} nodes stay in FP32: {first}{rest}")
    return told
