"""What differs between the generations of TensorRT, as one protocol, and the choice among them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, ClassVar, Protocol

from deploy.engine.monitor import PhaseTracker
from deploy.engine.trt8 import TensorRT8
from deploy.engine.trt10 import TensorRT10
from deploy.engine.trt11 import TensorRT11
from edgeq.core.errors import TargetError
from edgeq.core.optional import version_numbers
from edgeq.core.progress import Progress

_log = logging.getLogger(__name__)


class Dialect(Protocol):
    """The calls that another generation needs another form of.

    Attributes:
        versions: releases whose names a test held against the real bindings' (8.5: against a list made from documents).
    """

    versions: ClassVar[tuple[str, ...]]

    def network_flags(self, *, is_weak: bool) -> int:
        """Return the argument of `create_network`."""

    def set_precision(self, config: Any, *, is_weak: bool) -> tuple[str, ...]:
        """Set the flags that let INT8 and FP16 kernels run; return their names."""

    def check_compatibility(self, *, version: bool, hardware: str) -> str | None:
        """Return why an asked compatibility is not to be had, or None."""

    def read_node(self, error: Any, names: Sequence[str]) -> tuple[str, str]:
        """Return name and operator of the node that a parser error belongs to; empty where it tells none.

        Args:
            error: of the parser.
            names: of the nodes of the ONNX file, in order.
        """

    def watch_build(self, config: Any, progress: Progress) -> PhaseTracker | None:
        """Have the build with `config` pass its phases on; return what follows them, None where none are told."""


_DIALECTS: tuple[tuple[tuple[int, int], type[Any]], ...] = (
    ((8, 5), TensorRT8),
    ((10, 0), TensorRT10),
    ((11, 0), TensorRT11),
)


def choose_dialect(trt: Any) -> Dialect:
    """Return the dialect of the imported `tensorrt` module.

    Raises:
        TargetError: if it is older than 8.5, or of a generation that edgeq does not know.
    """
    version = version_numbers(str(trt.__version__))
    for first, kind in _DIALECTS:
        if version[:1] == first[:1] and version >= first:
            return _made(kind, trt, f"{version[0]}.{version[1]}")
    raise TargetError(
        f"TensorRT {trt.__version__} is not supported",
        why="edgeq drives TensorRT 8.5, 8.6, 10.x and 11.x from Python",
        mend="build with the bundle's build.sh, which calls trtexec",
    )


def _made(kind: type[Any], trt: Any, release: str) -> Dialect:
    dialect: Dialect = kind(trt)
    if release not in dialect.versions:
        _log.warning(
            "TensorRT %s is none of the releases whose API was checked (%s): a call may fail",
            release,
            ", ".join(dialect.versions),
        )
    return dialect
