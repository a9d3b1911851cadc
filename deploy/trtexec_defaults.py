"""Whose defaults a figure has: TensorRT 11 changed three of trtexec, so one without its settings compares with nothing.

Entry: `describe_defaults`. Source: deployment/tensorrt.md 5.3.
"""

from __future__ import annotations

from collections.abc import Mapping

from deploy.board.timing import trtexec_defaults

_LABELS = {"has_transfers": "transfers", "is_spinning": "spin wait", "has_graph": "CUDA graph"}
_CHANGED = (
    "trtexec 8 to 10 counts transfers, sleeps while it waits and uses no graph; "
    "11 counts none, spins and uses a graph"
)


def describe_defaults(
    settings: Mapping[str, bool | None], *, of: str = "this run", unknown: str = ""
) -> str:
    """Return the three settings of a measurement, and which trtexec has them unless it is told otherwise.

    Args:
        settings: "has_transfers", "is_spinning" and "has_graph"; None for what is not known.
        of: what was measured.
        unknown: what is said in place of "on" or "off" where a setting is None.
    """
    now = {name: settings[name] for name in _LABELS}
    words = "; ".join(
        f"{_LABELS[name]} {unknown if value is None else 'on' if value else 'off'}"
        for name, value in now.items()
    )
    return f"{of}: {words}{_whose(now)}; {_CHANGED}"


def _whose(now: Mapping[str, bool | None]) -> str:
    if None in now.values():
        return ""
    equal = [
        f"trtexec {version}"
        for major, version in ((10, "8 to 10"), (11, "11"))
        if now == {name: getattr(trtexec_defaults(major), name) for name in now}
    ]
    return f" (the defaults of {equal[0] if equal else 'no trtexec'})"
