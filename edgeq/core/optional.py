"""Packages that only some commands need: loaded when first used, and missed with the command that mends it."""

import importlib
import re
from types import ModuleType
from typing import Tuple

from edgeq.core.errors import EdgeqBug, MissingDependencyError


def require(module: str, wanted: str = "", *, why: str, install: str) -> ModuleType:
    """Return the imported `module`.

    Args:
        module: import name; the distribution is taken to have the same.
        wanted: bounds on its version, for instance ">=8.5,<12"; any if empty.
        why: what it is needed for, for instance "to build an engine".
        install: the command that installs it.

    Raises:
        MissingDependencyError: if it is absent, cannot be loaded, or has another version.
    """
    bounds = f" {wanted}" if wanted else ""
    try:
        loaded = importlib.import_module(module)
    except (ImportError, OSError) as error:
        is_absent = isinstance(error, ModuleNotFoundError) and error.name == module
        found = (
            "is not installed" if is_absent else f"{_installed(module)} cannot be loaded: {error}"
        )
        raise _missing(f"{module} {found}", f"{module}{bounds} is needed {why}", install) from error
    version = str(getattr(loaded, "__version__", None) or _installed(module))
    if not is_within(version, wanted):
        raise _missing(
            f"{module} {version} was found", f"{module}{bounds} is needed {why}", install
        )
    return loaded


def is_within(version: str, wanted: str) -> bool:
    """Return whether `version` keeps every bound of `wanted`.

    Example:
        >>> is_within("10.3.0", ">=8.5,<12")
        True
    """
    return all(_keeps(version_numbers(version), bound) for bound in wanted.split(",") if bound)


def version_numbers(version: str) -> Tuple[int, ...]:
    """Return the leading numbers of a version: (10, 16, 1) for "10.16.1.post2"."""
    match = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(part) for part in match[0].split(".")) if match else ()


def _keeps(version: Tuple[int, ...], bound: str) -> bool:
    match = re.fullmatch(r"\s*(>=|<)\s*([\d.]+)\s*", bound)
    if match is None:
        msg = f"'{bound}' is no bound: write >=X or <X"
        raise EdgeqBug(msg)
    limit = version_numbers(match[2])
    return version >= limit if match[1] == ">=" else version < limit


def _installed(distribution: str) -> str:
    try:
        from importlib import metadata  # novm: Python 3.8; a board with an older one does without

        return metadata.version(distribution)
    except ImportError:  # no such module, or no such package
        return "of an unknown version"


def _missing(what: str, why: str, install: str) -> MissingDependencyError:
    return MissingDependencyError(what, why=why, mend=install)
