"""A roofline estimate of a network's latency on a target, from its card: `edgeq estimate`. Nothing is measured.

Every predicted kernel takes max(2 MACs / (efficiency x peak), bytes / (efficiency x bandwidth)) + launch. The
efficiencies and the launch time are ranges, so each figure is one, from the better to the worse end.

Source: deployment/tensorrt.md 3.6, whose starting values are inferred and were not verified on hardware.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from deploy.cards import Capability, require_capability
from deploy.onnxrt import ModelInput
from deploy.random_inputs import choose_shape, require_known_names
from deploy.work import Work, count_work, fix_sizes
from edgeq.core.errors import TargetError
from edgeq.core.files import FilePath
from edgeq.core.serial import Spec
from edgeq.core.specs import TargetCard
from edgeq.graph.infer_ranks import infer_shapes
from edgeq.graph.read import load_any_model
from edgeq.graph.regions import Region, predict_regions
from edgeq.graph.regions.kernels import RegionView
from edgeq.graph.view import GraphView

LABEL = "estimate, not measured"
_FACTS = {"int8_tops": "TOP/s", "fp16_tops": "TOP/s", "bandwidth_gb_s": "GB/s"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms(Spec):
    """What the card does not say, each from the better to the worse end.

    Attributes:
        dense_share: of the peak that a convolution or product reaches.
        depthwise_share: of the peak that a depthwise convolution reaches.
        memory_share: of the bandwidth that is reached.
        launch_us: of one kernel inside a CUDA graph.
    """

    dense_share: tuple[float, float] = (0.6, 0.35)
    depthwise_share: tuple[float, float] = (0.15, 0.05)
    memory_share: tuple[float, float] = (0.75, 0.6)
    launch_us: tuple[float, float] = (3.0, 5.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class CardFigure(Spec):
    """A figure of the card, with how it is known."""

    name: str
    value: float
    unit: str
    evidence: str
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RegionEstimate(Spec):
    """One predicted kernel.

    Attributes:
        nodes: by first output.
        ops, precision: as predicted.
        macs: multiply-accumulates.
        bytes: moved to and from memory.
        bound: "compute", "memory" or "launch": the largest term at the better end; "view" where there is no work.
        best_us, worst_us: the range.
    """

    nodes: tuple[str, ...]
    ops: str
    precision: str
    macs: int
    bytes: int
    bound: str
    best_us: float
    worst_us: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate(Spec):
    """One model on one target.

    Attributes:
        label: says that nothing was measured.
        model: name of the file.
        target, title: of the card.
        shapes: of the inputs.
        figures: of the card that were used.
        terms: what the card does not say.
        best_ms, worst_ms: of all kernels together.
        macs, bytes: of all kernels together.
        macs_by_precision: multiply-accumulates in each precision.
        regions: every kernel, in file order.
        unknown: tensors whose sizes are not known; they count too little.
    """

    label: str
    model: str
    target: str
    title: str
    shapes: dict[str, tuple[int, ...]]
    figures: tuple[CardFigure, ...]
    terms: Terms
    best_ms: float
    worst_ms: float
    macs: int
    bytes: int
    macs_by_precision: dict[str, int]
    regions: tuple[RegionEstimate, ...]
    unknown: tuple[str, ...]


def estimate_latency(
    path: FilePath,
    card: TargetCard,
    *,
    batch: int | None = None,
    shapes: dict[str, tuple[int, ...]] | None = None,
    terms: Terms | None = None,
) -> Estimate:
    """Return the roofline estimate of an ONNX file, with or without Q/DQ nodes, on the target `card`.

    Raises:
        InputError: if the file cannot be read, or the size of an input is unknown.
        ModelError: if it is no valid ONNX.
        TargetError: if the card has no figures, or the model has INT8 kernels and the target has none.
    """
    path = Path(path)
    _require_figures(card)
    terms = terms or Terms()
    model = load_any_model(path)
    sizes = _choose_shapes(GraphView(model), batch, shapes or {})
    fixed = fix_sizes(model, sizes)
    regions = predict_regions(fixed, card)
    if any(item.precision.startswith("int8") for item in regions):
        require_capability(card, Capability.INT8)
    view = RegionView(infer_shapes(fixed), fixed)
    work = [count_work(view, region) for region in regions]
    items = [_time(region, done, card, terms) for region, done in zip(regions, work, strict=True)]
    by_precision: dict[str, int] = {}
    for item in items:
        by_precision[item.precision] = by_precision.get(item.precision, 0) + item.macs
    return Estimate(
        label=LABEL,
        model=path.name,
        target=card.name,
        title=card.title,
        shapes=sizes,
        figures=_figures(card),
        terms=terms,
        best_ms=sum(item.best_us for item in items) / 1000,
        worst_ms=sum(item.worst_us for item in items) / 1000,
        macs=sum(item.macs for item in items),
        bytes=sum(item.bytes for item in items),
        macs_by_precision={name: macs for name, macs in by_precision.items() if macs},
        regions=tuple(items),
        unknown=tuple(dict.fromkeys(name for done in work for name in done.unknown)),
    )


def peak_tops(precision: str, card: TargetCard) -> float:
    """Return the dense peak, in TOP/s, of products in the precision that a region names.

    FP32 is no figure of the cards. Taken from FP16: a half where there are no tensor cores (below 7.0) or TF32 is on by
    default (8.0 and newer), an eighth between them. FP8 runs at the rate of INT8.
    """
    if precision.startswith(("int8", "fp8")):
        return card.int8_tops
    if precision.startswith(("fp16", "bf16", "int4")):
        return card.fp16_tops
    capability = float(card.compute_capability)
    return card.fp16_tops / (8 if 7 <= capability < 8 else 2)


def _time(region: Region, work: Work, card: TargetCard, terms: Terms) -> RegionEstimate:
    shares = terms.depthwise_share if work.is_depthwise else terms.dense_share
    peak = peak_tops(region.precision, card)
    compute = [2 * work.macs / (share * peak * 1e6) if work.macs else 0.0 for share in shares]
    memory = [work.bytes / (share * card.bandwidth_gb_s * 1e3) for share in terms.memory_share]
    launch = terms.launch_us
    best, worst = (max(compute[end], memory[end]) + launch[end] for end in (0, 1))
    bound = max(
        ("compute", compute[0]), ("memory", memory[0]), ("launch", launch[0]), key=lambda x: x[1]
    )[0]
    if work.is_free:
        best, worst, bound = 0.0, 0.0, "view"
    return RegionEstimate(
        nodes=region.nodes,
        ops=region.ops,
        precision=region.precision,
        macs=work.macs,
        bytes=0 if work.is_free else round(work.bytes),
        bound=bound,
        best_us=best,
        worst_us=worst,
    )


def _choose_shapes(
    view: GraphView, batch: int | None, shapes: dict[str, tuple[int, ...]]
) -> dict[str, tuple[int, ...]]:
    # The element type does not matter for a size.
    inputs = [
        ModelInput(name=name, shape=view.shape(name) or (), dtype="float32") for name in view.inputs
    ]
    require_known_names(inputs, shapes)
    return {item.name: choose_shape(item, batch, shapes.get(item.name)) for item in inputs}


def _require_figures(card: TargetCard) -> None:
    if card.runtime != "tensorrt" or not (card.bandwidth_gb_s and card.fp16_tops):
        raise TargetError(
            f"the target '{card.name}' has no figures to estimate with",
            why="an estimate needs the peak rates and the bandwidth of one chip, and CPUs differ",
            mend="measure here: python tools/bench_latency.py model.onnx model.qdq.onnx",
        )


def _figures(card: TargetCard) -> tuple[CardFigure, ...]:
    found = []
    for name, unit in _FACTS.items():
        if not getattr(card, name):
            continue  # a chip without INT8 has no rate of it
        sources = [item for item in card.sources if name in item.facts]
        found.append(
            CardFigure(
                name=name,
                value=getattr(card, name),
                unit=unit,
                evidence=", ".join(item.evidence.value for item in sources) or "not stated",
                source=" ".join(item.text for item in sources),
            )
        )
    return tuple(found)
