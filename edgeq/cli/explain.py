"""`edgeq explain`: what happens to every tensor, by which rule, and why; and what TensorRT is predicted to fuse."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from edgeq.cli import options
from edgeq.cli.output import print_json, print_table

if TYPE_CHECKING:  # numpy is too much for `--help`
    from edgeq.core.plan import Decision
    from edgeq.graph.regions import Region


def explain(
    context: typer.Context,
    model: options.Model,
    target: options.Target,
    bits: options.Bits = "w8a8",
    first_last: options.FirstLast = "int8",
    flavour: options.Flavour = None,
    dla: options.Dla = False,
    preset: options.Preset = None,
    mean: options.Mean = "",
    std: options.Std = "",
    bounds: options.Bounds = "",
    shape: options.Shapes = None,
    as_json: options.Json = False,
) -> None:
    """Print the placement for a target. Each tensor has grid, rule and reason; predicted kernels follow.

    Of a MODEL that has Q/DQ nodes already, of any tool, only the prediction is printed.
    """
    from edgeq.pipeline import run_explain

    options.say_defaults(context)
    found = run_explain(
        options.make_options(
            model,
            out=Path(f"{model.stem}.{target}"),
            target=target,
            bits=bits,
            first_last=first_last,
            flavour=flavour,
            dla=dla,
            preset=preset,
            mean=mean,
            std=std,
            bounds=bounds,
            shapes=shape,
        )
    )
    if as_json:
        print_json(found.to_dict())
        return
    if found.plan is not None:
        print_table(
            ("tensor", "grid", "rule", "reason"),
            [
                (item.tensor, describe_grid(item), item.rule, item.reason)
                for item in found.plan.decisions
            ],
        )
    if found.on_gpu:
        typer.echo("\nlayers that DLA cannot take, and the GPU runs (not verified on hardware)")
        print_table(
            ("node", "operator", "check", "reason"),
            [(item.node, item.op_type, item.check, item.reason) for item in found.on_gpu],
        )
    if found.full:
        typer.echo("\nstays in FP32 (a build adds what ranges and scales decide)")
        print_table(
            ("node", "operator", "rule", "reason"),
            [(item.node, item.op_type, item.rule, item.reason) for item in found.full],
        )
    if found.regions:
        _print_regions(found.regions, is_first=found.plan is None)


def _print_regions(regions: tuple[Region, ...], *, is_first: bool) -> None:
    if not is_first:
        typer.echo()
    typer.echo("predicted kernels (from NVIDIA's documentation; not verified on hardware)")
    print_table(
        ("nodes", "operators", "precision", "reason"),
        [(_describe_nodes(item.nodes), item.ops, item.precision, item.reason) for item in regions],
    )
    kernels = [item for item in regions if item.kind.value == "kernel"]
    int8 = sum(item.precision.startswith("int8") for item in kernels)
    conversions = sum(item.kind.value == "conversion" for item in regions)
    typer.echo(
        f"{len(regions)} kernels; {int8} of {len(kernels)} convolutions and products in INT8; "
        f"{conversions} conversions between INT8 and float"
    )


def _describe_nodes(nodes: tuple[str, ...]) -> str:
    return nodes[0] if len(nodes) == 1 else f"{nodes[0]} .. {nodes[-1]}"


def describe_grid(decision: Decision) -> str:
    """Return the grid of a decision in words, with the tensor whose scale it takes."""
    from edgeq.core.plan import DerivedRange, FixedRange, SharedRange

    if decision.grid is None:
        return "int32" if isinstance(decision.owner, DerivedRange) else "float"
    match decision.owner:
        case SharedRange(with_tensor=tensor):
            return f"{decision.grid}, scale of {tensor}"
        case FixedRange(amax=amax):
            return f"{decision.grid}, fixed at {amax:.4g}"
        case _:
            return str(decision.grid)
