"""A build in plain words: what was asked, what was decided, how it went."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgeq.core.plan import QuantPlan, Role
from edgeq.core.specs import TargetCard

NOT_MEASURED = "not measured"


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """Medians of the float and of the quantized model, timed in one run.

    Attributes:
        backend: what was timed, in words.
        before_ms, ratio: None where the quantized model alone was timed; the ratio is after over before.
    """

    backend: str
    before_ms: float | None
    after_ms: float
    ratio: float | None


def say_asked(results: Mapping[str, Any], card: TargetCard) -> list[str]:
    """Return what the user asked for, one sentence each."""
    build = results["build"]
    bits, recipe = build["bits"], build["recipe"]
    ends = "the same widths" if bits["first_last_same"] else "8 bits"
    how = "on a sample set that was given" if "samples" in build else "without its training data"
    return [
        f"Quantize {results['model']} {how}, for {card.title}.",
        f"Weights get {bits['weights']} bits and activations {bits['activations']} bits ({results['bits']}).",
        f"The first and the last layer, and what the first one makes, have {ends}.",
        f"The method is the recipe '{recipe['name']}' at the effort '{recipe['effort']}': {recipe['title']}.",
        f"Every random choice follows from the seed {build['seed']}.",
    ]


def say_decided(results: Mapping[str, Any], plan: QuantPlan) -> list[str]:
    """Return what edgeq decided, one sentence each."""
    counts = Counter((item.role, str(item.grid)) for item in plan.quantized())
    kinds = [
        f"{number} {_plural(role, number)} on the grid {grid}"
        for (role, grid), number in sorted(counts.items(), key=lambda item: str(item[0]))
    ]
    left = sum(1 for item in plan.decisions if item.grid is None)
    proof, known = results["proof"], results["statistics"]
    within = f"within {proof['largest_abs']:.2g} ({proof['tolerance']:.2g} is allowed)"
    return [
        f"Preprocessing: {results['preprocessing']}.",
        f"Statistics of the training data: {known['text']}; trust: {known['trust']}.",
        f"Proof: the imported network equals the file in ONNX Runtime {within}.",
        f"Placement: {'; '.join(kinds) or 'nothing is quantized'}; {left} tensors that were considered stay in float.",
    ]


def say_verdict(results: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the key figures: name and value."""
    agreement, size = results["agreement"], results["size_bytes"]
    before, after = top1_pcts(results)
    worst = min((item["sqnr_db"] for item in agreement["outputs"]), default=None)
    return [
        ("Top-1 before", say_pct(before)),
        ("Top-1 after", say_pct(after)),
        *(
            (f"Same top class as the teacher{kind and f', {kind}'}", say_pct(pct))
            for kind, _, pct in match_pcts(agreement)
        ),
        ("Output against the teacher", NOT_MEASURED if worst is None else f"{worst:.1f} dB"),
        (
            "Size",
            f"{_kb(size['before'])}, now {_kb(size['after'])} (ratio {size['after'] / size['before']:.2f})",
        ),
        ("Largest difference in codes, student to ONNX Runtime", str(results["codes"]["largest"])),
    ]


def say_samples(results: Mapping[str, Any]) -> str:
    """Return what the agreement is measured on, in one sentence."""
    agreement = results["agreement"]
    made = "given" if "samples" in results["build"] else "synthetic"
    kinds = [f"{count} {kind}" for kind, count, _ in match_pcts(agreement) if kind]
    told = f": {', '.join(kinds)}. Dead leaves show no class, so the teacher is unsure of them"
    return f"The agreement is measured on {agreement['samples']} {made} samples{told if kinds else ''}."


def match_pcts(agreement: Mapping[str, Any]) -> list[tuple[str, int, float | None]]:
    """Return the share of samples with the teacher's top class: kind of samples, how many, per cent.

    The kind is "" where the samples are of one kind, and the share None where the network gives no class scores. Of
    several kinds the first is the one whose samples were optimised.
    """
    ratio, parts = agreement["top1_match_ratio"], agreement.get("parts", ())
    if parts:
        return [(x["kind"], int(x["samples"]), 100 * x["top1_match_ratio"]) for x in parts]
    return [("", int(agreement["samples"]), None if ratio is None else 100 * ratio)]


def say_latency(runtime: str, latency: Latency | None) -> list[tuple[str, str]]:
    """Return what was timed and the figure, one row each; what was not measured says so.

    Args:
        runtime: of the target; no figure of another runtime stands for its own.
        latency: of another runtime or of this one, or None.
    """
    is_own = latency is not None and latency.backend.startswith("TensorRT")
    rows = (
        [("TensorRT on the device", NOT_MEASURED)] if runtime == "tensorrt" and not is_own else []
    )
    if latency is None:
        return rows or [("ONNX Runtime on the CPU", NOT_MEASURED)]
    if latency.before_ms is None or latency.ratio is None:
        return [
            *rows,
            (f"{latency.backend} (median)", f"{latency.after_ms:.3g} ms"),
            ("FP32 beside it", NOT_MEASURED),
        ]
    told = f"{latency.before_ms:.3g} ms, now {latency.after_ms:.3g} ms (ratio {latency.ratio:.2f})"
    return [*rows, (f"{latency.backend} (median)", told)]


def say_regions(regions: Sequence[Mapping[str, Any]]) -> str:
    """Return in words what the regions of results.json come to."""
    kernels = [item for item in regions if item["kind"] == "kernel"]
    int8 = sum(item["precision"].startswith("int8") for item in kernels)
    conversions = sum(item["kind"] == "conversion" for item in regions)
    return (
        f"{len(regions)} kernels; {int8} of {len(kernels)} convolutions and products in INT8; "
        f"{conversions} {'conversion' if conversions == 1 else 'conversions'} between INT8 and float."
    )


def say_fusions(results: Mapping[str, Any]) -> list[str]:
    """Return what ONNX Runtime computes on integers, and a warning where its kernels err more than quantization.

    Nothing is said of a model that was not written for ONNX Runtime.
    """
    fusions = results["fusions"]
    if fusions is None:
        return []
    lines = [str(fusions["summary"])]
    quantized = min((item["sqnr_db"] for item in results["agreement"]["outputs"]), default=0.0)
    if min(fusions["sqnr_db"].values(), default=quantized) < quantized:
        lines.append(
            "warning: this processor's integer kernels add more error than quantization does; "
            "without VNNI set the session option session.x64quantprecision to 1"
        )
    return lines


def top1_pcts(results: Mapping[str, Any]) -> tuple[float | None, float | None]:
    """Return top-1 before and after in per cent, or None for both where it was not measured."""
    evaluation = results["evaluation"]
    if evaluation is None:
        return None, None
    return evaluation["float"]["top1_pct"], evaluation["quantized"]["top1_pct"]


def say_pct(value: float | None) -> str:
    """Return a percentage in words."""
    return NOT_MEASURED if value is None else f"{value:.2f} %"


def _plural(role: Role, number: int) -> str:
    word = "weight tensor" if role is Role.WEIGHT else "activation"
    return word if number == 1 else f"{word}s"


def _kb(size: float) -> str:
    return f"{size / 1e3:.0f} kB"
