"""What `import edgeq` offers to programs: `build`, and `make_options` for the functions that take `BuildOptions`.

Names and defaults are those of `edgeq build`; a test compares them. The command line reads its words and calls the same
functions.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral
from pathlib import Path
from typing import cast

from edgeq.core.errors import InputError, read_choice
from edgeq.core.files import FilePath
from edgeq.core.progress import Progress
from edgeq.core.recipes import DEFAULT_RECIPE
from edgeq.core.specs import BitSpec, Effort, GraphFlavour
from edgeq.pipeline.options import BuildOptions
from edgeq.pipeline.run import BuildResult, run_build

# Those that may be asked for: a graph without Q/DQ is none of a build's.
FLAVOURS = (GraphFlavour.FP32_TYPED.value, GraphFlavour.FP16_TYPED.value)


def build(
    model: FilePath,
    *,
    target: str,
    bits: str = "w8a8",
    first_last: str = "int8",
    effort: str = "standard",
    seed: int = 0,
    out: FilePath | None = None,
    flavour: str | None = None,
    dla: bool = False,
    device: str = "auto",
    teacher: FilePath | None = None,
    preset: str | None = None,
    mean: Sequence[float] = (),
    std: Sequence[float] = (),
    bounds: Sequence[float] = (),
    shape: Mapping[str, Sequence[int]] | None = None,
    samples: FilePath | None = None,
    eval_path: FilePath | None = None,
    recipe: str = DEFAULT_RECIPE,
    settings: Mapping[str, object] | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> BuildResult:
    """Quantize a network and write all that the target needs: `edgeq build`.

    Args:
        model: the trained network, an ONNX file.
        target: chip and runtime, a name of `edgeq targets`.
        bits: widths of weights and activations, wNaM with N and M from 2 to 8.
        first_last: "int8" keeps the first and the last layer, the output of the first, and shortcuts that only an Add
            reads, at 8 bits; "same" does not.
        effort: how much compute to spend: "quick", "standard" or "max".
        seed: the same seed gives the same bytes.
        out: folder of results; MODEL.TARGET in the current folder if None.
        flavour: types of what is not quantized, "fp32-typed" or "fp16-typed"; the target's if None.
        dla: quantize for DLA, and write its calibration cache.
        device: where samples are made and the student is trained: "cpu", "cuda", "cuda:N", or "auto": a GPU if
            there is one.
        teacher: state dict (.pth, .safetensors) with the BatchNorm statistics that a folded model lost.
        preset: preprocessing by name: "imagenet", "cifar10", "unit" and others.
        mean: of each channel, for pixels in 0..1.
        std: standard deviation of each channel, same unit.
        bounds: (low, high), the legal values of the input in the model's own unit.
        shape: of inputs that are dynamic, by name.
        samples: a sample set to train on in place of a synthetic one: a folder of `edgeq synth`, an array (.npy) of
            what the model takes, or pictures in a folder or zip. With real data the result is not zero-shot.
        eval_path: labelled pictures, one folder a class; a folder or a zip.
        recipe: published method, a name of `edgeq recipes`.
        settings: figures of the recipe that are replaced, for instance {"training.steps": 500}.
        overwrite: delete another build in `out`.
        progress: told of every stage; nothing is printed if None.

    Returns:
        The folder, the content of results.json and the seconds of each stage.

    Raises:
        EdgeqError: what is wrong and what to do about it; see `edgeq.core.errors`.

    Example:
        >>> import edgeq
        >>> done = edgeq.build("model.onnx", target="jetson-orin", bits="w4a4")  # doctest: +SKIP
    """
    options = make_options(
        model,
        target=target,
        bits=bits,
        first_last=first_last,
        effort=effort,
        seed=seed,
        out=out,
        flavour=flavour,
        dla=dla,
        device=device,
        teacher=teacher,
        preset=preset,
        mean=mean,
        std=std,
        bounds=bounds,
        shape=shape,
        samples=samples,
        eval_path=eval_path,
        recipe=recipe,
        settings=settings,
        overwrite=overwrite,
    )
    return run_build(options, progress)


def make_options(
    model: FilePath,
    *,
    target: str,
    bits: str = "w8a8",
    first_last: str = "int8",
    effort: str = "standard",
    seed: int = 0,
    out: FilePath | None = None,
    flavour: str | None = None,
    dla: bool = False,
    device: str = "auto",
    teacher: FilePath | None = None,
    preset: str | None = None,
    mean: Sequence[float] = (),
    std: Sequence[float] = (),
    bounds: Sequence[float] = (),
    shape: Mapping[str, Sequence[int]] | None = None,
    samples: FilePath | None = None,
    eval_path: FilePath | None = None,
    recipe: str = DEFAULT_RECIPE,
    settings: Mapping[str, object] | None = None,
    overwrite: bool = False,
) -> BuildOptions:
    """Return what `run_build`, `plan_build`, `prepare`, `run_synth` and `run_explain` take; arguments as of `build`.

    Raises:
        InputError: if a value is none of those that it can have. Files are looked at later.
    """
    words = {"bits": bits, "target": target, "first_last": first_last, "effort": effort}
    words |= {"recipe": recipe, "device": device}
    words |= {
        name: x for name, x in {"flavour": flavour, "preset": preset}.items() if x is not None
    }
    for name, text in words.items():
        _require_form(name, text, str, "text, as on the command line")
    for name, numbers in {"mean": mean, "std": std, "bounds": bounds}.items():
        _require_form(name, numbers, Iterable, "numbers such as [0.5, 0.5, 0.5]")
    _require_form("shape", shape or {}, Mapping, "a dictionary such as {'input': [1, 3, 224, 224]}")
    for name, sizes in (shape or {}).items():
        _require_form(f"shape['{name}']", sizes, Iterable, "sizes such as [1, 3, 224, 224]")
    _require_form("settings", settings or {}, Mapping, "a dictionary such as {'training.steps': 9}")
    is_same = read_choice("--first-last", first_last, ("int8", "same")) == "same"
    _require_integers(bits, target)
    level = read_choice("--effort", effort, [item.value for item in Effort])
    if flavour is not None:
        read_choice("--flavour", flavour, FLAVOURS)
    seed = _read_whole("seed", seed)
    if seed < 0:
        raise InputError(
            f"--seed is {seed}",
            why="random generators take seeds of 0 and more",
            mend="pass a number of 0 or more",
        )
    if len(bounds) not in (0, 2):
        raise InputError(
            f"--bounds has {len(bounds)} numbers",
            why="the legal box has a lower and an upper bound",
            mend="pass two, for instance 0 and 1",
        )
    return BuildOptions(
        model=Path(model),
        target=target,
        bits=BitSpec.parse(bits, first_last_same=is_same),
        effort=Effort(level),
        seed=seed,
        out=Path(f"{Path(model).stem}.{target}") if out is None else Path(out),
        recipe=recipe,
        preset=preset,
        mean=_read_numbers("mean", mean),
        std=_read_numbers("std", std),
        bounds=_read_numbers("bounds", bounds),
        shapes={
            name: tuple(_read_whole(f"shape['{name}']", size) for size in sizes)
            for name, sizes in (shape or {}).items()
        },
        eval_path=None if eval_path is None else Path(eval_path),
        settings={key: str(value) for key, value in (settings or {}).items()},
        overwrite=overwrite,
        teacher_weights=None if teacher is None else Path(teacher),
        samples_path=None if samples is None else Path(samples),
        flavour=None if flavour is None else GraphFlavour(flavour),
        for_dla=dla,
        device=_read_device(device),
    )


def _require_form(name: str, value: object, kind: type, form: str) -> None:
    """Raise for an argument that no command line could give: of another type, or text in place of several values.

    Raises:
        InputError: with the form that it has.
    """
    if not isinstance(value, kind) or (isinstance(value, str) and kind is not str):
        raise _wrong_form(name, value, form)


def _wrong_form(name: str, value: object, form: str) -> InputError:
    return InputError(
        f"{name} is {value!r}", why=f"it takes {form}", mend=f"pass {name} in that form"
    )


def _read_whole(name: str, value: object) -> int:
    """Return a whole number, numpy's among them, as Python's own: JSON has no other.

    Raises:
        InputError: if it is none.
    """
    _require_form(name, value, Integral, "whole numbers")
    return int(cast("int", value))


def _read_numbers(name: str, values: Iterable[float]) -> tuple[float, ...]:
    """Return numbers, those of numpy and torch among them, as Python's own.

    Raises:
        InputError: if one is none.
    """
    numbers = list(values)
    try:
        return tuple(map(float, numbers))
    except (TypeError, ValueError, RuntimeError) as error:
        raise _wrong_form(name, numbers, "numbers such as [0.5, 0.5, 0.5]") from error


def _read_device(name: str) -> str:
    """Return the name of a device; whether it is there is looked at later.

    Raises:
        InputError: if it is none.
    """
    if re.fullmatch(r"auto|cpu|cuda(:\d+)?", name) is None:
        raise InputError(
            f"--device '{name}' is not understood",
            why="synthesis and training run in torch on the CPU or on one CUDA GPU",
            mend="pass auto, cpu, cuda, or cuda:1 for the second GPU",
        )
    return name


def _require_integers(bits: str, target: str) -> None:
    """Raise for a float format in place of widths: by the target if it has none, else because edgeq writes none.

    Raises:
        TargetError: if the target does not run that format.
        InputError: if it does.
    """
    from deploy.cards import Capability, load_card, require_capability

    wish = {"fp8": Capability.FP8, "fp4": Capability.NVFP4, "nvfp4": Capability.NVFP4}.get(
        bits.strip().lower()
    )
    if wish is None:
        return
    require_capability(load_card(target), wish)
    raise InputError(
        f"--bits '{bits}': edgeq writes no {wish.value} models",
        why=f"its grids are integers of 2 to 8 bits; '{target}' could run the format",
        mend="pass --bits w8a8, or make the model with NVIDIA's Model Optimizer and check it with `edgeq lint`",
    )
