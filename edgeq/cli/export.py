"""`edgeq export`: from PyTorch to an ONNX file that keeps BatchNorm."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgeq.cli import options
from edgeq.core.errors import InputError

# The name of the one input where --shape names none.
INPUT = "input"


def export(
    context: typer.Context,
    network: Annotated[
        str,
        typer.Argument(
            metavar="PACKAGE:FACTORY",
            help="Function that makes the network, e.g. net:make for make() in ./net.py. Its code is imported and run.",
        ),
    ],
    weights: Annotated[
        Path,
        typer.Option(
            metavar="FILE", help="State dict (.pth, .safetensors). No code in it is ever run."
        ),
    ],
    shape: Annotated[
        list[str],
        typer.Option(
            metavar="[NAME:]1x3x224x224",
            help="Shape of an input; repeatable, with names, in the order of forward.",
        ),
    ],
    out: Annotated[Path, typer.Option(metavar="FILE", help="The ONNX file to write.")],
    opset: Annotated[int, typer.Option(min=9, max=20, help="Version of the ONNX operators.")] = 17,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the file if it is there.")
    ] = False,
) -> None:
    """Write a PyTorch network as ONNX with BatchNorm kept. The file is proved equal to it."""
    options.say_defaults(context)
    shapes = options.read_shapes(
        [f"{INPUT}:{shape[0]}"] if len(shape) == 1 and ":" not in shape[0] else shape
    )
    if out.exists() and not overwrite:
        raise InputError(
            "the output is already there",
            why="edgeq does not replace a file unasked",
            mend="choose another --out, or pass --overwrite",
            path=out,
        )
    from edgeq.teacher.export import export_module

    done = export_module(network, weights, shapes=shapes, out=out, opset=opset)
    typer.echo(f"{done.path}: {done.nodes} nodes, {done.batchnorms} BatchNormalization")
    typer.echo(f"equal to the module within {done.largest_abs:.1e}")
