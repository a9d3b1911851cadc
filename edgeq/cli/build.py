"""`edgeq build`: from a trained ONNX file to a verified low-bit model and the kit for the board."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgeq.cli import options
from edgeq.cli.output import print_json


def build(
    context: typer.Context,
    model: options.Model,
    target: options.Target,
    bits: options.Bits = "w8a8",
    first_last: options.FirstLast = "int8",
    effort: options.EffortName = "standard",
    seed: options.Seed = 0,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder of results.  [default: MODEL.TARGET here]"),
    ] = None,
    flavour: options.Flavour = None,
    dla: options.Dla = False,
    device: options.Device = "auto",
    teacher: options.Teacher = None,
    preset: options.Preset = None,
    mean: options.Mean = "",
    std: options.Std = "",
    bounds: options.Bounds = "",
    shape: options.Shapes = None,
    samples: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR|ZIP|NPY",
            help="Train on this sample set, or these pictures, in place of synthetic samples.",
        ),
    ] = None,
    eval_path: Annotated[
        Path | None,
        typer.Option("--eval", metavar="DIR|ZIP", help="Labelled pictures, one folder a class."),
    ] = None,
    recipe: options.Recipe = options.DEFAULT_RECIPE,
    settings: options.Settings = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and stop.")] = False,
    as_json: options.Json = False,
    overwrite: options.Overwrite = False,
) -> None:
    """Quantize a network and write all that the target needs."""
    from edgeq.pipeline import plan_build, run_build

    out = out or Path(f"{model.stem}.{target}")
    options.say_defaults(context, out=out)
    wanted = options.make_options(
        model,
        out=out,
        target=target,
        bits=bits,
        first_last=first_last,
        effort=effort,
        seed=seed,
        recipe=recipe,
        teacher=teacher,
        flavour=flavour,
        dla=dla,
        device=device,
        preset=preset,
        mean=mean,
        std=std,
        bounds=bounds,
        shapes=shape,
        samples=samples,
        eval_path=eval_path,
        settings=settings,
        overwrite=overwrite,
    )
    if dry_run:
        plan = plan_build(wanted)
        if as_json:
            print_json(plan.to_dict())
        else:
            typer.echo("\n".join(plan.lines()))
        return
    from edgeq.cli.progress import make_progress

    with make_progress() as progress:
        result = run_build(
            wanted, progress, on_claim=lambda folder: progress.log_to(folder / "log.jsonl")
        )
    if as_json:
        print_json(result.to_dict())
        return
    for line in [*result.summary_lines(), f"results: {result.folder}"]:
        typer.echo(line)
