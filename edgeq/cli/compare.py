"""`edgeq compare`: how far two models agree, and where they part."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgeq.cli import options
from edgeq.cli.output import print_json, print_table, say
from edgeq.core.errors import GateFailed

if TYPE_CHECKING:
    from deploy.compare import CompareResult, TensorComparison
    from edgeq.core.samples import SampleSet

_WORST = 5


def compare(
    first: Annotated[Path, typer.Argument(metavar="A.onnx", help="The reference.")],
    second: Annotated[
        Path, typer.Argument(metavar="B.onnx", help="The file that is judged; an engine, too.")
    ],
    samples: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="A sample set, as `edgeq build` and `synth` write it."),
    ] = None,
    load_inputs: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Inputs in polygraphy's JSON instead.")
    ] = None,
    count: Annotated[
        int, typer.Option(min=1, help="Random samples, where no inputs are given.")
    ] = 8,
    seed: Annotated[int, typer.Option(min=0, help="Of the random samples.")] = 0,
    shape: options.Shapes = None,
    limit: Annotated[
        float | None,
        typer.Option(
            metavar="DB", help="End with 7 if a tensor or output has a lower SQNR; marks at 20 dB."
        ),
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Measure how far two models agree, and where they part."""
    from deploy.compare import DEFAULT_LIMIT_DB, compare_models
    from edgeq.cli.progress import make_progress

    if samples is not None and load_inputs is not None:
        raise typer.BadParameter("--samples and --load-inputs are two sources: pass one")
    sample_set = _read_samples(first, samples, load_inputs, count=count, seed=seed, shape=shape)
    with make_progress() as progress:
        result = compare_models(
            first,
            second,
            sample_set,
            limit_db=DEFAULT_LIMIT_DB if limit is None else limit,
            progress=progress,
        )
    if as_json:
        print_json(result.to_dict())
    else:
        _print(result)
    if limit is not None and result.worst_db < limit:
        raise GateFailed(
            f"the models agree to {result.worst_db:.1f} dB at worst",
            why=f"--limit asks for {limit:g} dB",
            mend="see the first tensor below it; --json has the figures of all",
            path=second,
        )


def _read_samples(
    model: Path,
    folder: Path | None,
    file: Path | None,
    *,
    count: int,
    seed: int,
    shape: list[str] | None,
) -> SampleSet:
    from edgeq.core.samples import SampleSet

    if folder is not None:
        return SampleSet.load(folder)
    from deploy.compare_inputs import load_polygraphy_inputs, make_random_samples

    if file is not None:
        return load_polygraphy_inputs(file)
    say(
        f"warning: no --samples and no --load-inputs: {count} random inputs (seed {seed}), unlike any real data"
    )
    shapes = dict(options.read_shapes(shape or ()))
    return make_random_samples(model, count=count, shapes=shapes, seed=seed)


def _print(result: CompareResult) -> None:
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
    for item in result.outputs:
        if item.non_finite:
            typer.echo(f"'{item.a}' of A has {item.non_finite} values that are NaN or infinite")
    if not result.tensor_samples:
        typer.echo("an engine shows no tensor but its outputs: compare its ONNX file to see inside")
        return
    _print_tensors(result)


def _print_tensors(result: CompareResult) -> None:
    typer.echo(f"{len(result.tensors)} tensors that both have, on {result.tensor_samples} samples")
    if result.unlike:
        typer.echo(f"left out, of another shape: {', '.join(result.unlike)}")
    if result.rescaled:
        typer.echo(
            f"left out, because equalization has multiplied their channels: {len(result.rescaled)} tensors;"
            " report.html of the build compares them"
        )
    if result.first is None:
        typer.echo(f"no tensor is below {result.limit_db:g} dB")
    else:
        typer.echo(f"first tensor below {result.limit_db:g} dB: {_describe(result.first)}")
    worst = sorted(result.tensors, key=lambda item: item.sqnr_db)[:_WORST]
    if worst and worst[0].sqnr_db < 200:
        typer.echo("worst tensors:")
        print_table(
            ("tensor of B", "SQNR", "largest difference", "made by", "its inputs"),
            [
                (
                    item.b,
                    _sqnr(item),
                    f"{item.max_abs:.3g}",
                    f"{item.op_type} {item.node}",
                    _inputs(item),
                )
                for item in worst
            ],
        )


def _describe(item: TensorComparison) -> str:
    at = f", whose inputs are at {inputs}" if (inputs := _inputs(item)) else ""
    return f"'{item.b}' ({_sqnr(item)}), made by {item.op_type} '{item.node}'{at}"


def _sqnr(item: TensorComparison) -> str:
    """Return the SQNR, and that before the tensor's own rounding where it was better by more than a dB."""
    if item.unrounded_db is None or item.unrounded_db <= item.sqnr_db + 1:
        return f"{item.sqnr_db:.1f} dB"
    return f"{item.sqnr_db:.1f} dB, before rounding {item.unrounded_db:.1f} dB"


def _inputs(item: TensorComparison) -> str:
    return ", ".join(f"{value:.1f} dB" for value in item.inputs.values())
