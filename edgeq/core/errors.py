"""Every error that a user can meet, and the one that is our own fault.

EdgeqError            what, why, mend; the exit code is the class's
├── InputError        3   an argument, a file beside the model, an output folder
├── ModelError        3   the ONNX file or something in it
├── NumericsError     3   NaN, infinity or an impossible range
├── CalibError        3   no sample set can be made or read
├── TargetError       4   the target cannot do what was asked
├── MissingDependencyError  5
├── BuildError        6   a stage failed
├── DeviceError       6   the device or its driver
└── GateFailed        7   a limit on accuracy or latency was not met
EdgeqBug             70   a broken invariant of ours; no child of EdgeqError, so `except EdgeqError` cannot hide it
"""

import difflib
from pathlib import Path
from typing import Iterable, List, Optional, Union

INTERRUPTED = 130  # exit code: 128 + SIGINT, as a shell reports it


class EdgeqError(Exception):
    """A fault that the user can mend: what happened, why it matters, what to do next.

    Args:
        what: the fault, with names and numbers.
        why: what was expected, or what the fault leads to.
        mend: the next thing to do, as a command where there is one.
        node: the ONNX node it belongs to.
        path: the file it belongs to.
    """

    exit_code = 3

    def __init__(
        self,
        what: str,
        *,
        why: str,
        mend: str,
        node: Optional[str] = None,
        path: Optional[Union[Path, str]] = None,
    ) -> None:
        super().__init__(what)
        self.what = what
        self.why = why
        self.mend = mend
        self.node = node
        self.path = None if path is None else str(path)

    def __str__(self) -> str:
        places = [
            f"{kind} '{name}'" for kind, name in (("file", self.path), ("node", self.node)) if name
        ]
        where = "".join(f"\n  in:   {place}" for place in places)
        return f"{self.what}{where}\n  why:  {self.why}\n  mend: {self.mend}"


class InputError(EdgeqError):
    """An argument, a file beside the model, or an output folder is wrong."""


class ModelError(EdgeqError):
    """The ONNX file, or something in it, cannot be used."""


class NumericsError(EdgeqError):
    """A value is NaN or infinite, or a range is impossible."""


class CalibError(EdgeqError):
    """No sample set can be made or read."""


class TargetError(EdgeqError):
    """The target cannot do what was asked."""

    exit_code = 4


class MissingDependencyError(EdgeqError):
    """An optional package is not installed."""

    exit_code = 5


class BuildError(EdgeqError):
    """A stage of the build failed."""

    exit_code = 6


class DeviceError(EdgeqError):
    """The device or its driver is missing or failed."""

    exit_code = 6


class GateFailed(EdgeqError):
    """A limit on accuracy or latency was not met."""

    exit_code = 7


class EdgeqBug(Exception):
    """A broken invariant of edgeq itself."""

    exit_code = 70


def nearest_names(name: str, known: Iterable[str], *, count: int = 3) -> List[str]:
    """Return up to `count` known names that look like `name`, best first."""
    return difflib.get_close_matches(name, sorted(known), n=count, cutoff=0.3)


def describe_choices(name: str, known: Iterable[str]) -> str:
    """Return the sentence that offers the nearest names and lists them all."""
    names = sorted(known)
    near = nearest_names(name, names)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    return f"{hint}known: {', '.join(names)}"


def read_choice(option: str, value: str, choices: Iterable[str]) -> str:
    """Return `value`, which must be one of `choices`.

    Raises:
        InputError: naming `option` and the nearest choices.
    """
    known = list(choices)
    if value not in known:
        raise InputError(
            f"{option} '{value}' is not understood",
            why=f"{option} has {len(known)} values",
            mend=describe_choices(value, known),
        )
    return value
