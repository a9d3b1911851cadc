"""`edgeq deploy`: copy a bundle to a board, run it there, bring the report back."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated

import typer

from edgeq.cli import options
from edgeq.cli.output import print_json, say
from edgeq.core.errors import InputError

REPORT = "device_report.json"


def deploy(
    address: Annotated[
        str, typer.Argument(metavar="[USER@]BOARD", help="As for ssh; ~/.ssh/config is read.")
    ],
    bundle: Annotated[
        Path,
        typer.Argument(metavar="BUNDLE", help="bundle/, bundle.tar.zst, or the folder of a build."),
    ],
    port: Annotated[int | None, typer.Option("-p", "--port", min=1, max=65535)] = None,
    identity: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Private key; ssh's own choice if not given."),
    ] = None,
    accept_new_host_key: Annotated[
        bool,
        typer.Option("--accept-new-host-key", help="Trust a board that is in no known_hosts yet."),
    ] = False,
    remote_dir: Annotated[
        str | None,
        typer.Option(
            metavar="DIR", help="On the board; edgeq-DIGEST in the home folder if not given."
        ),
    ] = None,
    clean: Annotated[
        bool,
        typer.Option("--clean/--keep", help="Leave nothing on the board, or all (for a rerun)."),
    ] = False,
    rebuild: Annotated[
        bool, typer.Option("--rebuild", help="Build the engine even if the board has it.")
    ] = False,
    device_check: Annotated[
        bool,
        typer.Option(
            "--device-check/--no-device-check",
            help="First ask TensorRT there, once, what the documents leave open; stop if it cannot answer.",
        ),
    ] = True,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help=f"The board's report; {REPORT} beside BUNDLE if not given."
        ),
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Copy a bundle to a board over SSH and run it there. Output is live; the report comes back."""
    from deploy.deployment import deploy_bundle, require_pass
    from deploy.ssh import Access
    from edgeq.cli.progress import make_progress

    path = find_bundle(bundle)
    access = Access(address=address, port=port, identity=identity, accepts_new=accept_new_host_key)
    with tempfile.TemporaryDirectory(prefix="edgeq-") as scratch:
        folder = unpack(path, Path(scratch) / "bundle")
        with make_progress() as progress:
            done = deploy_bundle(
                folder,
                access,
                out=out or options.choose_path_beside(path, REPORT),
                folder=remote_dir,
                words=["--rebuild"] if rebuild else [],
                is_clean=clean,
                is_checked=device_check,
                say=say if as_json else typer.echo,
                progress=progress,
            )
    if as_json:
        print_json(done.to_dict())
    else:
        typer.echo(f"{done.verdict}: {done.report}")
    if done.kept:
        say(
            f"warning: left in {done.folder} on the board, for it is not ours: {', '.join(done.kept)}"
        )
    require_pass(done)


def find_bundle(path: Path) -> Path:
    """Return the folder or archive that `path` names; the folder of a build stands for its bundle/."""
    inner = path / "bundle"
    if path.is_dir() and not (path / "SHA256SUMS").is_file() and inner.is_dir():
        return inner
    if not path.exists():
        raise InputError(
            "there is no such bundle",
            why="`edgeq build` writes bundle/ and bundle.tar.zst into its folder",
            mend="pass one of them",
            path=path,
        )
    return path


def unpack(path: Path, scratch: Path) -> Path:
    """Return the folder of a bundle, for an archive unpacked at `scratch`."""
    from deploy.archive import unpack_bundle

    if path.is_dir():
        return path
    unpack_bundle(path, scratch)
    return scratch
