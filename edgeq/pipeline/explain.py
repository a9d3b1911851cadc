"""`edgeq explain`: the placement on a float model, and what TensorRT is predicted to make of the Q/DQ nodes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx

from edgeq.core.errors import InputError
from edgeq.core.plan import QuantPlan, Role
from edgeq.core.quantized import QuantizedValues
from edgeq.core.specs import GraphFlavour
from edgeq.graph.dla_limits import DlaFinding, check_dla
from edgeq.graph.half_rules import Kept, choose_full
from edgeq.graph.infer_ranks import infer_shapes
from edgeq.graph.regions import Region
from edgeq.graph.view import GraphView
from edgeq.pipeline.options import BuildOptions
from edgeq.pipeline.placing import place, read_model, settle_flavour


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """What is decided on a model, and what is predicted of it.

    Attributes:
        plan: the placement; None for a file that has its Q/DQ nodes already.
        regions: what TensorRT is predicted to fuse, and in which precision; none for other runtimes and DLA.
        full: nodes that stay in FP32 in an FP16-typed graph, as far as no range or scale decides.
        on_gpu: with --dla, layers that DLA cannot take.
    """

    plan: QuantPlan | None
    regions: tuple[Region, ...]
    full: tuple[Kept, ...] = ()
    on_gpu: tuple[DlaFinding, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the plain form."""
        return {
            "plan": None if self.plan is None else self.plan.to_dict(),
            "regions": [region.to_dict() for region in self.regions],
            "full": [item.to_dict() for item in self.full],
            "on_gpu": [item.to_dict() for item in self.on_gpu],
        }


def run_explain(options: BuildOptions) -> Explanation:
    """Return the placement for the model and the target, and the regions predicted of it; nothing is written.

    Statistics of BatchNormalization are not needed. Of a file with Q/DQ nodes, of any tool, only the regions are told.

    Raises:
        EdgeqError: if the model cannot be read or placed.
    """
    from deploy.cards import Capability, load_card, require_capability
    from deploy.flavours import choose_flavour
    from edgeq.graph.fit_target import fit_opset
    from edgeq.graph.insert_qdq import insert_qdq
    from edgeq.graph.read import has_qdq, load_any_model
    from edgeq.graph.regions import predict_regions
    from edgeq.graph.type_half import type_half

    card = load_card(options.target)
    require_capability(card, Capability.INT8)
    if has_qdq(options.model):
        if options.for_dla:
            raise InputError(
                "--dla for a file that has Q/DQ nodes already",
                why="DLA takes no Q/DQ nodes; what is predicted of a file that has some are kernels of the GPU",
                mend="pass the float model, or leave --dla out",
                path=options.model,
            )
        return Explanation(plan=None, regions=predict_regions(load_any_model(options.model), card))
    options = settle_flavour(options, card)
    loaded, reports = read_model(options)
    card = choose_flavour(card, options.flavour, half_types=loaded.half_types)
    loaded = fit_opset(loaded, card=card)
    placed = place(options, card, loaded, [report.spec for report in reports])
    written = insert_qdq(
        placed.model, placed.plan, blank_values(placed.model, placed.plan), card=card
    ).model
    is_half = card.flavour is GraphFlavour.FP16_TYPED
    full = choose_full(infer_shapes(written), {}) if is_half else ()
    typed = type_half(written, kept=full).model if is_half else written
    return Explanation(
        plan=placed.plan,
        regions=() if options.for_dla else predict_regions(typed, card),
        full=full,
        on_gpu=check_dla(placed.inferred) if options.for_dla else (),
    )


def blank_values(model: onnx.ModelProto, plan: QuantPlan) -> QuantizedValues:
    """Return scales of 1 and codes of 0 for a plan on `model`: what fuses does not depend on the numbers."""
    view = GraphView(model)
    scales, codes = {}, {}
    for item in plan.quantized():
        value = view.constant(item.tensor) if item.role is Role.WEIGHT else None
        shape = () if value is None else value.shape
        axis = None if item.grid is None else item.grid.axis
        scales[item.tensor] = np.ones(() if axis is None else shape[axis], np.float32)
        if item.role is Role.WEIGHT:
            codes[item.tensor] = np.zeros(shape, np.int8)
    return QuantizedValues(scales=scales, codes=codes, floats={})
