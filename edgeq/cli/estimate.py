"""`edgeq estimate`: what a network should take on a target, by a roofline; nothing is measured."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgeq.cli import options
from edgeq.cli.output import align, print_json, print_table

if TYPE_CHECKING:
    from deploy.estimate import Estimate

_SLOWEST = 10


def estimate(
    model: Annotated[
        Path, typer.Argument(metavar="MODEL", help="An ONNX file, with or without Q/DQ nodes.")
    ],
    after: Annotated[
        Path | None,
        typer.Argument(metavar="[AFTER]", help="A second file, for instance model.qdq.onnx."),
    ] = None,
    target: options.Target = ...,  # type: ignore[assignment]
    batch: Annotated[
        int | None, typer.Option(min=1, help="Size of a dynamic batch axis (1).")
    ] = None,
    shape: options.Shapes = None,
    as_json: options.Json = False,
) -> None:
    """Estimate the latency on a target from its peak rates. Not a measurement."""
    from deploy.cards import load_card
    from deploy.estimate import estimate_latency

    card = load_card(target)
    shapes = options.read_shapes(shape or ())
    found = [
        estimate_latency(path, card, batch=batch, shapes=shapes)
        for path in (model, after)
        if path is not None
    ]
    if as_json:
        print_json({"estimates": [item.to_dict() for item in found]})
        return
    for item in found:
        _print(item)
    if len(found) == 2:
        best, worst = (
            getattr(found[1], end) / getattr(found[0], end) for end in ("best_ms", "worst_ms")
        )
        typer.echo(f"ratio AFTER / MODEL: {best:.2f} (better end), {worst:.2f} (worse end)")
    _print_terms(found[0])


def _print(item: Estimate) -> None:
    shapes = ", ".join(f"{name} {'x'.join(map(str, size))}" for name, size in item.shapes.items())
    typer.echo(
        f"{item.model} on {item.title}, {shapes}: {item.best_ms:.3f} to {item.worst_ms:.3f} ms ({item.label})"
    )
    shares = ", ".join(
        f"{100 * macs / item.macs:.0f} % {name}" for name, macs in item.macs_by_precision.items()
    )
    typer.echo(
        f"{item.macs / 1e6:.1f} million MACs ({shares or 'none'}), {item.bytes / 1e6:.2f} MB moved, "
        f"{sum(region.bound != 'view' for region in item.regions)} kernels"
    )
    slowest = sorted(item.regions, key=lambda region: -region.worst_us)[:_SLOWEST]
    print_table(
        ("slowest kernels", "operators", "precision", "million MACs", "kB", "bound", "us"),
        [
            (
                region.nodes[0],
                region.ops,
                region.precision,
                f"{region.macs / 1e6:.2f}",
                f"{region.bytes / 1e3:.1f}",
                region.bound,
                f"{region.best_us:.1f} to {region.worst_us:.1f}",
            )
            for region in slowest
        ],
    )
    if item.unknown:
        typer.echo(f"sizes not known, counted too small: {', '.join(item.unknown)}")
    typer.echo("")


def _print_terms(item: Estimate) -> None:
    terms = item.terms
    typer.echo(
        "terms: max(2 MACs / (share x peak), bytes / (share x bandwidth)) + launch, summed over kernels"
    )
    rows = [
        (
            f"  {figure.name}",
            f"{figure.value:g} {figure.unit}",
            f"{figure.evidence}: {figure.source}",
        )
        for figure in item.figures
    ]
    shares = {
        "share of the peak": terms.dense_share,
        "share, depthwise": terms.depthwise_share,
        "share of the bandwidth": terms.memory_share,
    }
    rows += [(f"  {name}", f"{a:g} to {b:g}", "inferred") for name, (a, b) in shares.items()]
    first, last = terms.launch_us
    rows.append(("  launch of a kernel", f"{first:g} to {last:g} us", "inferred, in a CUDA graph"))
    for line in align(rows):
        typer.echo(line)
    typer.echo(
        "kernels are predicted from documentation; time them on the target with trtexec or tools/bench_latency.py"
    )
