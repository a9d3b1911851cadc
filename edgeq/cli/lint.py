"""`edgeq lint`: hold a Q/DQ model of any tool against the rules of a target's parser."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgeq.cli import options
from edgeq.cli.output import print_json

if TYPE_CHECKING:  # onnx is too much for `--help`
    from edgeq.core.specs import TargetCard
    from edgeq.graph.lint import Finding
    from edgeq.graph.lint.mend import Fix


def lint(
    model: Annotated[
        Path, typer.Argument(metavar="MODEL", help="An ONNX file of any tool, quantized or not.")
    ],
    target: options.Target,
    fix: Annotated[
        bool, typer.Option("--fix", help="Mend what changes no value, into the file --out.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Where --fix writes; MODEL itself if named.")
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Check a Q/DQ model against the rules of a target's parser.

    Ends with 0 if nothing or only warnings were found, with 7 if errors were (with --fix: if any remain). A file that
    is no valid ONNX ends with 3.
    """
    if fix != (out is not None):
        raise typer.BadParameter("--fix and --out FILE belong together")
    from deploy.cards import load_card
    from edgeq.graph.lint import lint as find_faults
    from edgeq.graph.read import load_any_model

    card = load_card(target)
    loaded = load_any_model(model)
    fixes: tuple[Fix, ...] = ()
    if out is not None:
        from edgeq.core.files import write_bytes
        from edgeq.graph.lint.mend import mend

        loaded, fixes = mend(loaded, card)
        write_bytes(out, loaded.SerializeToString(deterministic=True))
    findings = find_faults(loaded, card)
    if as_json:
        print_json(
            {
                "model": str(out or model),
                "target": card.name,
                "fixes": [item.to_dict() for item in fixes],
                "findings": [item.to_dict() for item in findings],
            }
        )
    else:
        _print_report(findings, fixes, card)
    _require_no_errors(findings, card, out or model, is_mended=fix)


def _print_report(findings: tuple[Finding, ...], fixes: tuple[Fix, ...], card: TargetCard) -> None:
    """Write what was mended, then what was found, check by check: why and mend are the same for all of one check."""
    for item in fixes:
        typer.echo(f"mended [{item.check}] {item.node or 'the model'}: {item.what}")
    by_check: dict[str, list[Finding]] = {}
    for finding in findings:
        by_check.setdefault(finding.check, []).append(finding)
    for check, found in by_check.items():
        typer.echo(f"{found[0].severity.value} [{check}], {len(found)}x")
        typer.echo(f"  why:  {found[0].why}")
        typer.echo(f"  mend: {found[0].mend}")
        for finding in found:
            typer.echo(f"  - {finding.node or 'the model'}: {finding.what}")
    errors = _count_errors(findings)
    typer.echo(f"{errors} errors, {len(findings) - errors} warnings for {card.title}")


def _count_errors(findings: tuple[Finding, ...]) -> int:
    return sum(finding.severity.value == "error" for finding in findings)


def _require_no_errors(
    findings: tuple[Finding, ...], card: TargetCard, path: Path, *, is_mended: bool
) -> None:
    from edgeq.core.errors import GateFailed

    errors = _count_errors(findings)
    if errors:
        checks = dict.fromkeys(item.check for item in findings if item.severity.value == "error")
        raise GateFailed(
            f"{errors} errors: {', '.join(checks)}",
            why=f"{card.title} would refuse the file, or compute something else",
            mend="each check above says what to do; mending these here would change values"
            if is_mended
            else "each check above says what to do; --fix --out FIXED.onnx mends what changes no value",
            path=path,
        )
