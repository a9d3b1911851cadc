"""The `edgeq` command: its verbs, and the one place where errors become messages and exit codes.

Nothing heavy is imported here or at the top of a verb's file, so that `--help` answers at once. Exit codes are those
of `edgeq.core.errors`; in addition 2 for wrong usage, 70 for a fault of ours and 130 for an interrupt.
"""

from __future__ import annotations

import errno
import io
import os
import sys
import tempfile
import traceback
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from edgeq import __version__
from edgeq.cli.build import build
from edgeq.cli.compare import compare
from edgeq.cli.deploy import deploy
from edgeq.cli.device_check import device_check
from edgeq.cli.doctor import doctor
from edgeq.cli.engine import engine
from edgeq.cli.estimate import estimate
from edgeq.cli.explain import explain
from edgeq.cli.export import export
from edgeq.cli.lint import lint
from edgeq.cli.output import say, set_up_logging
from edgeq.cli.ranks import one_voice, record
from edgeq.cli.recipes import recipes
from edgeq.cli.report import report
from edgeq.cli.synth import synth
from edgeq.cli.targets import targets
from edgeq.cli.weight_only import weight_only
from edgeq.core.errors import INTERRUPTED, EdgeqBug, EdgeqError, InputError

# What a file system says of a path that it does not let be used, however edgeq came to look at it.
_REFUSALS = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG, errno.ELOOP, errno.EIO}


class Verbs(TyperGroup):
    """The group of verbs; an interrupt inside one ends with a sentence and not with a trace."""

    def invoke(self, ctx: Any) -> Any:
        """Run the verb."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            resumes = "; the same command goes on from the last checkpoint"
            say(f"interrupted{resumes if ctx.invoked_subcommand in {'build', 'synth'} else ''}")
            raise typer.Exit(INTERRUPTED) from None
        except EOFError as error:  # which typer takes for an interrupt, too, and says nothing of
            raise EdgeqBug(f"EOFError: {error}") from error


app = typer.Typer(
    name="edgeq",
    cls=Verbs,
    help="Quantize a trained ONNX network without its training data, for TensorRT on edge GPUs.",
    epilog="Example: edgeq build model.onnx --target jetson-orin",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
app.command(epilog="Example: edgeq build model.onnx --target jetson-orin --bits w4a8")(build)
app.command("weight-only", epilog="Example: edgeq weight-only vit.onnx --target jetson-orin")(
    weight_only
)
app.command(epilog="Example: edgeq synth model.onnx --preset imagenet --seed 1")(synth)
app.command(epilog="Example: edgeq explain model.onnx --target jetson-orin")(explain)
app.command(
    epilog="Example: edgeq export net:make --weights net.pth --shape 1x3x32x32 --out net.onnx"
)(export)
app.command(epilog="Example: edgeq compare a.onnx b.onnx --samples model.cpu/samples")(compare)
app.command(epilog="Example: edgeq deploy nvidia@192.168.55.1 model.jetson-orin/bundle")(deploy)
app.command(epilog="Example: edgeq engine model.qdq.onnx --target jetson-orin")(engine)
app.command(
    epilog="Example: edgeq estimate model.onnx model.qdq.onnx --target jetson-orin --batch 1"
)(estimate)
app.command(
    epilog="Example: edgeq lint model.qdq.onnx --target jetson-orin --fix --out fixed.onnx"
)(lint)
app.command(epilog="Example: edgeq report model.w8a8 model.w4a8 --out builds.html")(report)
app.command(epilog="Example: edgeq targets --show jetson-orin")(targets)
app.command(epilog="Example: edgeq recipes --show edgeq")(recipes)
app.command(epilog="Example: edgeq device-check --target jetson-orin")(device_check)
app.command(epilog="Example: edgeq doctor")(doctor)


def _show_version(is_wanted: bool) -> None:
    if is_wanted:
        typer.echo(f"edgeq {__version__}")
        raise typer.Exit


@app.callback()
def _take_options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    set_up_logging()


def main() -> NoReturn:
    """Run the command line of this process and exit with its code."""
    # Read when torch is loaded, which happens inside a verb. Threads that spin while they wait take the cores of
    # other programs and of each other: docs/speed.md.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    for stream in (sys.stdout, sys.stderr):
        # A name of a file need not be UTF-8, and what is printed last must not end a run of hours.
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")
    with one_voice():
        _run()
    sys.exit(0)


def _run() -> None:
    """Run the command line, and turn errors into messages and exit codes."""
    try:
        app(prog_name="edgeq")
    except EdgeqError as error:
        say(f"error: {error}")
        record(error)
        sys.exit(error.exit_code)
    except Exception as error:  # the last line of defence: whatever comes here is a fault of ours
        record(error)
        if isinstance(error, OSError) and error.errno in {errno.ENOSPC, *_REFUSALS}:
            is_full = error.errno == errno.ENOSPC
            say(f"error: {_describe_full_disk(error) if is_full else _describe_refusal(error)}")
            sys.exit(InputError.exit_code)
        say(_describe_fault(error))
        sys.exit(EdgeqBug.exit_code)


def _describe_full_disk(error: OSError) -> InputError:
    """Return the message where standard output, or the folder for temporary files, has no room."""
    return InputError(
        f"no room to write {error.filename or 'the result'}",
        why=f"a file system or a quota is full ({error.strerror}); finished stages of a build are kept",
        mend="free some space where standard output goes, and in the folder for temporary files (TMPDIR)",
    )


def _describe_refusal(error: OSError) -> InputError:
    """Return the message where a path cannot be looked at: a folder on the way is closed, a name too long."""
    return InputError(
        f"the file system refuses a path: {error.strerror}",
        why="edgeq reads and writes the files that it is given as the user who runs it",
        mend="check the path and the permissions of every folder in it",
        path=error.filename,
    )


def _describe_fault(error: Exception) -> str:
    """Return the message on a fault of edgeq itself, and keep the trace for the report."""
    trace = "".join(traceback.format_exception(error))
    told = f"edgeq {__version__}, Python {sys.version}\n{' '.join(sys.argv)}\n\n{trace}"
    try:
        with tempfile.NamedTemporaryFile(
            "wb", prefix="edgeq-fault-", suffix=".txt", delete=False
        ) as file:
            file.write(told.encode("utf-8", "backslashreplace"))
        report = f"with this file: {file.name}"
    except OSError:  # no folder for temporary files, or no room in it
        report = f"with these lines:\n{told}"
    return (
        f"internal error: {type(error).__name__}: {error}\n"
        "  why:  this is a fault of edgeq, not of your files\n"
        f"  mend: please report it, {report}"
    )


if __name__ == "__main__":
    main()
