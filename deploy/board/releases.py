"""Which dialect does the installed TensorRT speak?"""

import logging
from typing import Any, Tuple, Type

from deploy.board.dialect import Dialect
from deploy.board.trt8 import TensorRT8
from deploy.board.trt10 import TensorRT10
from deploy.board.trt11 import TensorRT11
from edgeq.core.errors import TargetError
from edgeq.core.optional import version_numbers

SUPPORTED = ">=8.5,<12"
_DIALECTS: Tuple[Tuple[Tuple[int, int], Type[Dialect]], ...] = (
    ((8, 5), TensorRT8),
    ((10, 0), TensorRT10),
    ((11, 0), TensorRT11),
)
_log = logging.getLogger(__name__)


def choose_dialect(trt: Any) -> Dialect:
    """Return the dialect of the imported `tensorrt` module.

    Raises:
        TargetError: if it is older than 8.5, or of a generation that edgeq does not know.
    """
    version = version_numbers(str(trt.__version__))
    for first, kind in _DIALECTS:
        if version[:1] == first[:1] and version >= first:
            return _made(kind, trt, "{}.{}".format(*version))
    raise TargetError(
        f"TensorRT {trt.__version__} is not supported",
        why="edgeq drives TensorRT 8.5, 8.6, 10.x and 11.x from Python",
        mend="build with trtexec; README.txt of the bundle has its line",
    )


def _made(kind: Type[Dialect], trt: Any, release: str) -> Dialect:
    if release not in kind.versions:
        _log.warning(
            "TensorRT %s is none of the releases whose API was checked (%s): a call may fail",
            release,
            ", ".join(kind.versions),
        )
    return kind(trt)
