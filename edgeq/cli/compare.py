"""`edgeq compare`: how far two ONNX files agree on a sample set."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgeq.cli import options
from edgeq.cli.output import print_json, print_table


def compare(
    first: Annotated[Path, typer.Argument(metavar="A.onnx", help="The reference.")],
    second: Annotated[Path, typer.Argument(metavar="B.onnx", help="The file that is judged.")],
    samples: Annotated[
        Path,
        typer.Option(metavar="DIR", help="A sample set, as `edgeq build` and `synth` write it."),
    ],
    as_json: options.Json = False,
) -> None:
    """Measure how far two networks agree."""
    from deploy.compare import compare_models
    from edgeq.cli.progress import make_progress
    from edgeq.core.samples import SampleSet

    sample_set = SampleSet.load(samples)
    with make_progress() as progress:
        result = compare_models(first, second, sample_set, progress=progress)
    if as_json:
        print_json(result.to_dict())
        return
    typer.echo(f"{result.samples} samples; A is the reference")
    print_table(
        ("output of A", "output of B", "same top-1", "SQNR", "cosine", "largest difference"),
        [
            (
                item.a,
                item.b,
                "no logits"
                if item.top1_match_ratio is None
                else f"{100 * item.top1_match_ratio:.2f} %",
                f"{item.sqnr_db:.1f} dB",
                f"{item.cosine:.6f}",
                f"{item.max_abs:.3g}",
            )
            for item in result.outputs
        ],
    )
