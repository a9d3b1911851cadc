"""Options that several verbs share, and the way from their text to `BuildOptions`."""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgeq.cli.output import say
from edgeq.core.errors import InputError
from edgeq.core.errors import read_choice as read_choice  # for the verbs

if TYPE_CHECKING:  # the pipeline loads torch: only a verb that runs it may import it
    from edgeq.pipeline import BuildOptions

DEFAULT_RECIPE = (
    "edgeq"  # that of core.recipes, which is too much to load for `--help`; a test compares them
)


def complete_target(typed: str) -> list[str]:
    """Return the targets that begin with what was typed: for the shell's completion."""
    from deploy.cards import card_names

    return [name for name in card_names() if name.startswith(typed)]


def complete_recipe(typed: str) -> list[str]:
    """Return the recipes that begin with what was typed."""
    from edgeq.core.recipes import recipe_names

    data, plus, begun = typed.rpartition("+")
    return [f"{data}{plus}{name}" for name in recipe_names() if name.startswith(begun)]


def _complete_preset(typed: str) -> list[str]:
    from edgeq.graph.preprocessing import PRESETS

    return [name for name in sorted(PRESETS) if name.startswith(typed)]


def _complete_effort(typed: str) -> list[str]:
    from edgeq.core.specs import Effort

    return [item.value for item in Effort if item.value.startswith(typed)]


Model = Annotated[Path, typer.Argument(metavar="MODEL", help="The trained network, an ONNX file.")]
Target = Annotated[
    str,
    typer.Option(
        help="Chip and runtime; `edgeq targets` lists them.", autocompletion=complete_target
    ),
]
Bits = Annotated[
    str, typer.Option(metavar="wNaM", help="Widths of weights and activations, 2 to 8.")
]
FirstLast = Annotated[
    str,
    typer.Option(
        metavar="int8|same", help="Width of the first layer, of what it makes, and of the last."
    ),
]
EffortName = Annotated[
    str,
    typer.Option(
        metavar="quick|standard|max",
        help="How much compute to spend.",
        autocompletion=_complete_effort,
    ),
]
Seed = Annotated[int, typer.Option(min=0, help="The same seed gives the same bytes.")]
Recipe = Annotated[
    str,
    typer.Option(
        metavar="NAME|DATA+NUMBERS",
        help="Published method; `edgeq recipes` lists them.",
        autocompletion=complete_recipe,
    ),
]
Preset = Annotated[
    str | None,
    typer.Option(
        help="Preprocessing by name: imagenet, cifar10, unit and others.",
        autocompletion=_complete_preset,
    ),
]
Mean = Annotated[
    str, typer.Option(metavar="A,B,C", help="Mean of each channel, for pixels in 0..1.")
]
Std = Annotated[
    str, typer.Option(metavar="A,B,C", help="Standard deviation of each channel, same unit.")
]
Bounds = Annotated[
    str,
    typer.Option(metavar="LOW,HIGH", help="Legal values of the input, in the model's own unit."),
]
Shapes = Annotated[
    list[str] | None,
    typer.Option(
        "--shape", metavar="NAME:1x3x224x224", help="Shape of a dynamic input; repeatable."
    ),
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="One figure of the recipe; repeatable."),
]
Teacher = Annotated[
    Path | None,
    typer.Option(
        "--teacher",
        metavar="FILE",
        help="State dict (.pth, .safetensors) with the BatchNorm statistics that a folded MODEL lost.",
    ),
]
Flavour = Annotated[
    str | None,
    typer.Option(
        metavar="fp32-typed|fp16-typed",
        help="Types of what is not quantized.  [default: the target's]",
    ),
]
Dla = Annotated[
    bool, typer.Option("--dla", help="For DLA: Q/DQ on every tensor, and a calibration cache.")
]
Device = Annotated[
    str,
    typer.Option(
        metavar="auto|cpu|cuda[:N]", help="Where samples are made and the student is trained."
    ),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what is in the folder.")]
Json = Annotated[bool, typer.Option("--json", help="Write the result to standard output as JSON.")]


def make_options(
    model: Path,
    *,
    out: Path,
    target: str = "cpu",
    bits: str = "w8a8",
    first_last: str = "int8",
    effort: str = "standard",
    seed: int = 0,
    recipe: str = DEFAULT_RECIPE,
    preset: str | None = None,
    mean: str = "",
    std: str = "",
    bounds: str = "",
    shapes: Sequence[str] | None = None,
    samples: Path | None = None,
    eval_path: Path | None = None,
    settings: Sequence[str] | None = None,
    overwrite: bool = False,
    teacher: Path | None = None,
    flavour: str | None = None,
    dla: bool = False,
    device: str = "auto",
) -> BuildOptions:
    """Return the options of a build from their text on the command line.

    Raises:
        InputError: if a value cannot be read.
    """
    from edgeq.pipeline import make_options as make

    return make(
        model,
        target=target,
        bits=bits,
        first_last=first_last,
        effort=effort,
        seed=seed,
        out=out,
        teacher=teacher,
        preset=preset,
        mean=read_numbers("--mean", mean),
        std=read_numbers("--std", std),
        bounds=read_bounds(bounds),
        shape=read_shapes(shapes or ()),
        samples=samples,
        eval_path=eval_path,
        recipe=recipe,
        settings=read_settings(settings or ()),
        overwrite=overwrite,
        flavour=flavour,
        dla=dla,
        device=device,
    )


def say_defaults(context: typer.Context, **chosen: object) -> None:
    """Write every default in use to standard error, in the form in which it would be typed.

    Args:
        context: of the running verb.
        chosen: values of options whose default depends on the others, by parameter name.
    """
    words = []
    for parameter in context.command.params:
        name = str(parameter.name)
        source = context.get_parameter_source(name)
        value = chosen.get(name, context.params.get(name))
        is_default = source is not None and source.name == "DEFAULT"
        # A switch that is off says nothing, but a 0 (which equals False) does.
        if is_default and value is not False and value not in (None, "", [], ()):
            words += [parameter.opts[0], str(value)]
    if words:
        say(f"defaults: {shlex.join(words)}")


def choose_path_beside(path: Path, name: str) -> Path:
    """Return the path of `name` in the folder that `path` lies in; that is so of `.` and `..`, too."""
    whole = path if path.name not in ("", "..") else path.resolve()
    return whole.parent / name


def read_numbers(option: str, text: str, *, instance: str = "0.48,0.45,0.40") -> tuple[float, ...]:
    """Return the numbers of a comma-separated list, as `instance` is one; an empty text gives none."""
    if not text.strip():
        return ()
    try:
        numbers = tuple(float(item) for item in text.split(","))
    except ValueError:
        numbers = (math.nan,)
    if not all(math.isfinite(number) for number in numbers):
        raise _unread(
            option,
            text,
            "it takes finite numbers with commas between",
            f"for instance {option}={instance}",
        )
    return numbers


def read_bounds(text: str) -> tuple[float, ...]:
    """Return (low, high), or nothing for an empty text."""
    numbers = read_numbers("--bounds", text, instance="0,1")
    if len(numbers) not in (0, 2):
        raise _unread(
            "--bounds",
            text,
            "the legal box has a lower and an upper bound",
            "for instance --bounds=0,1",
        )
    return numbers


def read_shapes(texts: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """Return input names and shapes; the name may hold colons, as some exporters write it."""
    shapes: dict[str, tuple[int, ...]] = {}
    for text in texts:
        name, _, sizes = text.rpartition(":")
        try:
            shape = tuple(int(size) for size in sizes.split("x"))
        except ValueError:
            shape = ()
        if not name or not shape or min(shape) <= 0:
            raise _unread(
                "--shape",
                text,
                "a shape is NAME:SIZExSIZE..., all > 0",
                "for instance --shape input:1x3x224x224",
            )
        if name in shapes:
            raise _unread(
                "--shape", text, f"input '{name}' already has a shape", "one --shape for each input"
            )
        shapes[name] = shape
    return shapes


def read_settings(texts: Sequence[str]) -> dict[str, str]:
    """Return the keys and values of `--set`; the recipe checks both."""
    settings: dict[str, str] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not (key and equals and value):
            raise _unread(
                "--set", text, "a setting is KEY=VALUE", "for instance --set training.steps=500"
            )
        if key in settings:
            raise _unread("--set", text, f"'{key}' is set twice", "one --set for each key")
        settings[key] = value
    return settings


def _unread(option: str, text: str, why: str, instead: str) -> InputError:
    return InputError(
        f"{option} '{text}' is not understood",
        why=why,
        mend=f"pass {instead}",
    )
