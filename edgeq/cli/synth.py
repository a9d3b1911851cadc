"""`edgeq synth`: the synthetic sample set alone."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgeq.cli import options


def synth(
    context: typer.Context,
    model: options.Model,
    recipe: options.Recipe = options.DEFAULT_RECIPE,
    effort: options.EffortName = "standard",
    seed: options.Seed = 0,
    device: options.Device = "auto",
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder of the set.  [default: MODEL.samples here]"),
    ] = None,
    teacher: options.Teacher = None,
    preset: options.Preset = None,
    mean: options.Mean = "",
    std: options.Std = "",
    bounds: options.Bounds = "",
    shape: options.Shapes = None,
    settings: options.Settings = None,
    overwrite: options.Overwrite = False,
) -> None:
    """Make the synthetic sample set of a network alone."""
    from edgeq.cli.progress import make_progress
    from edgeq.pipeline import run_synth

    out = out or Path(f"{model.stem}.samples")
    options.say_defaults(context, out=out)
    wanted = options.make_options(
        model,
        out=out,
        effort=effort,
        seed=seed,
        device=device,
        recipe=recipe,
        teacher=teacher,
        preset=preset,
        mean=mean,
        std=std,
        bounds=bounds,
        shapes=shape,
        settings=settings,
        overwrite=overwrite,
    )
    with make_progress() as progress:
        folder = run_synth(wanted, progress)
    typer.echo(f"sample set: {folder}")
