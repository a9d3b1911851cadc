"""What FP16 typing costs: the file that ships against its FP32 twin, with the same codes, scales and biases."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import onnx

from deploy.code_agreement import CodeAgreement, compare_codes, quantizer_outputs
from deploy.differences import Difference
from deploy.onnxrt import Array, Session
from edgeq.core.plan import QuantPlan
from edgeq.core.serial import Spec


@dataclass(frozen=True, slots=True, kw_only=True)
class HalfAgreement(Spec):
    """How far an FP16-typed model is from its FP32 twin.

    Attributes:
        sqnr_db: of every floating output, by name; 200 if equal.
        codes: how many codes FP16 rounding moved, by tensor: those near a tie, and what follows from them.
    """

    sqnr_db: dict[str, float]
    codes: CodeAgreement


def compare_half(
    twin: onnx.ModelProto, model: onnx.ModelProto, plan: QuantPlan, feed: Mapping[str, Array]
) -> HalfAgreement:
    """Return how far `model` is from `twin` on the inputs `feed`.

    Raises:
        NumericsError: if an output has NaN or infinity: FP16 overflowed.
    """
    quantizers = quantizer_outputs(twin, plan)
    sessions = [Session(item, outputs=tuple(quantizers.values())) for item in (twin, model)]
    want, got = (session.run(feed) for session in sessions)
    outputs = {}
    for name in [item.name for item in twin.graph.output]:
        if want[name].dtype.kind == "f":
            difference = Difference(name)
            difference.add(want[name], got[name])
            outputs[name] = difference.sqnr_db
    codes = compare_codes(
        *({name: values[output] for name, output in quantizers.items()} for values in (want, got))
    )
    return HalfAgreement(sqnr_db=outputs, codes=codes)
