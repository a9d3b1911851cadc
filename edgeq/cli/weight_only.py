"""`edgeq weight-only`: weights of matrix products in 4 bits, activations in float."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgeq.cli import options
from edgeq.cli.output import print_json

METHODS = ("nearest", "mse", "easyquant")  # of edgeq.quant.weight_only, which loads torch


def weight_only(
    context: typer.Context,
    model: options.Model,
    target: options.Target,
    method: Annotated[
        str, typer.Option(metavar="|".join(METHODS), help="How the scales are chosen.")
    ] = "mse",
    block: Annotated[
        int,
        typer.Option(min=2, help="Most inputs with one scale; TensorRT is known to take 64, 128."),
    ] = 128,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder of results.  [default: MODEL.TARGET.w4a16 here]"),
    ] = None,
    samples: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Sample set to compare on; dead leaves if not given."),
    ] = None,
    flavour: options.Flavour = None,
    seed: options.Seed = 0,
    preset: options.Preset = None,
    mean: options.Mean = "",
    std: options.Std = "",
    bounds: options.Bounds = "",
    shape: options.Shapes = None,
    as_json: options.Json = False,
    overwrite: options.Overwrite = False,
) -> None:
    """Store the weights of MatMul and Gemm in 4 bits. Activations stay float. Takes seconds and no data.

    Products with such weights are computed in FP16, so the graph is fp16-typed wherever the target takes that.
    Convolutions stay float: no TensorRT has INT4 ones. `edgeq build --bits w4a8` has 4-bit convolutions in INT8.
    """
    from edgeq.cli.progress import make_progress
    from edgeq.pipeline import run_weight_only

    out = out or Path(f"{model.stem}.{target}.w4a16")
    options.say_defaults(context, out=out)
    wanted = options.make_options(
        model,
        out=out,
        target=target,
        flavour=flavour,
        seed=seed,
        preset=preset,
        mean=mean,
        std=std,
        bounds=bounds,
        shapes=shape,
        overwrite=overwrite,
    )
    chosen = options.read_choice("--method", method, METHODS)
    with make_progress() as progress:
        result = run_weight_only(
            wanted, method=chosen, block=block, samples=samples, progress=progress
        )
    if as_json:
        print_json(result.to_dict())
        return
    for line in [*result.lines(), f"results: {result.folder}"]:
        typer.echo(line)
