"""`edgeq explain`: what happens to every tensor, by which rule, and why."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from edgeq.cli import options
from edgeq.cli.output import print_json, print_table

if TYPE_CHECKING:  # numpy is too much for `--help`
    from edgeq.core.plan import Decision


def explain(
    context: typer.Context,
    model: options.Model,
    target: options.Target,
    bits: options.Bits = "w8a8",
    first_last: options.FirstLast = "int8",
    preset: options.Preset = None,
    mean: options.Mean = "",
    std: options.Std = "",
    bounds: options.Bounds = "",
    shape: options.Shapes = None,
    as_json: options.Json = False,
) -> None:
    """Print the placement for a target: tensor, grid, rule, reason."""
    from edgeq.pipeline import run_explain

    options.say_defaults(context)
    plan = run_explain(
        options.make_options(
            model,
            out=Path(f"{model.stem}.{target}"),
            target=target,
            bits=bits,
            first_last=first_last,
            preset=preset,
            mean=mean,
            std=std,
            bounds=bounds,
            shapes=shape,
        )
    )
    if as_json:
        print_json(plan.to_dict())
        return
    print_table(
        ("tensor", "grid", "rule", "reason"),
        [(item.tensor, describe_grid(item), item.rule, item.reason) for item in plan.decisions],
    )


def describe_grid(decision: Decision) -> str:
    """Return the grid of a decision in words, with the tensor whose scale it takes."""
    from edgeq.core.plan import FixedRange, SharedRange

    if decision.grid is None:
        return "float"
    match decision.owner:
        case SharedRange(with_tensor=tensor):
            return f"{decision.grid}, scale of {tensor}"
        case FixedRange(amax=amax):
            return f"{decision.grid}, fixed at {amax:.4g}"
        case _:
            return str(decision.grid)
