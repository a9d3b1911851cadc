"""Figures of a recipe: read from the command line, and held to their limits."""

from __future__ import annotations

import math
from typing import Any

from edgeq.core.errors import InputError
from edgeq.core.serial import Spec


def parse_figure(key: str, text: str, kind: type) -> Any:
    """Return the value that `text` of `--set key=text` stands for.

    Raises:
        InputError: if it is no `kind`.
    """
    if kind is bool and text.lower() in {"true", "false"}:
        return text.lower() == "true"
    try:
        if kind in {int, float, str}:
            value: int | float | str = kind(text)
            if not isinstance(value, float) or math.isfinite(value):
                return value
    except ValueError:
        pass
    form = {bool: "true or false", int: "a whole number", float: "a finite number"}[kind]
    raise InputError(
        f"--set {key}={text}: this is not {form}",
        why=f"the figure '{key}' is {form}",
        mend=f"pass --set {key}=VALUE with such a value",
    )


def require(spec: Spec, field: str, holds: bool, what: str) -> None:
    """Raise unless a figure `holds` what is said of it.

    Raises:
        InputError: with the figure, and `what` it must be.
    """
    if not holds:
        raise InputError(
            f"the figure '{field}' is {getattr(spec, field)}",
            why=f"it must be {what}",
            mend="change it with --set, or leave the recipe's own",
        )


def require_positive(spec: Spec, *fields: str) -> None:
    """Raise unless every one of `fields` is above 0."""
    for field in fields:
        require(spec, field, getattr(spec, field) > 0, "greater than 0")


def require_not_negative(spec: Spec, *fields: str) -> None:
    """Raise unless every one of `fields` is 0 or above."""
    for field in fields:
        require(spec, field, getattr(spec, field) >= 0, "0 or greater")
