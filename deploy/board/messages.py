"""What TensorRT says of itself: its log, and the errors of its ONNX parser, each with the node it belongs to."""

import functools
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any, List, NamedTuple, Sequence, Tuple

from deploy.board.dialect import Dialect
from edgeq.core.errors import BuildError, ModelError

if TYPE_CHECKING:
    import tensorrt

_log = logging.getLogger(__name__)


@functools.lru_cache(maxsize=None)
def make_logger(trt: Any) -> Any:
    """Return the one logger of this process, whose `errors` is a list: TensorRT keeps the first that it is given.

    Everything goes to Python's log at DEBUG; errors are kept too, because a failed build returns None and no reason.
    """

    class Forward(trt.ILogger):  # type: ignore[misc]  # the base is known at run time only
        def __init__(self) -> None:
            trt.ILogger.__init__(self)  # without it the process dies when TensorRT calls
            self.errors: List[str] = []

        def log(self, severity: Any, msg: str) -> None:
            if severity in (trt.ILogger.INTERNAL_ERROR, trt.ILogger.ERROR):
                self.errors.append(msg)
            _log.debug("%s: %s", severity, msg)

    return Forward()


class ParserFault(NamedTuple):
    """One error of the parser.

    Attributes:
        node, operator: where it belongs; empty where TensorRT does not tell.
        text: what TensorRT says.
        place: its source line, for a report to NVIDIA.
    """

    node: str
    operator: str
    text: str
    place: str

    def __str__(self) -> str:
        kind = f" ({self.operator})" if self.operator else ""
        where = f"node '{self.node}'{kind}" if self.node else "no node named"
        return f"{where}: {self.text} [{self.place}]"


def read_faults(
    parser: "tensorrt.OnnxParser", dialect: Dialect, names: Sequence[str]
) -> Tuple[ParserFault, ...]:
    """Return every error that the parser has.

    Args:
        parser: after parsing.
        dialect: of its TensorRT.
        names: of the nodes of the ONNX file, in order.
    """
    return tuple(_read_fault(parser.get_error(i), dialect, names) for i in range(parser.num_errors))


def _read_fault(
    error: "tensorrt.ParserError", dialect: Dialect, names: Sequence[str]
) -> ParserFault:
    node, operator = dialect.read_node(error, names)
    place = f"{error.code()}, {Path(str(error.file())).name}:{error.line()} in {error.func()}"
    return ParserFault(node=node, operator=operator, text=str(error.desc()).strip(), place=place)


def refused_model(
    model: Path, faults: Sequence[ParserFault], *, version: str, errors: Sequence[str]
) -> ModelError:
    """Return the error of a file that the parser does not take, with all that it said."""
    lines = [str(fault) for fault in faults] or list(errors) or ["TensorRT gave no reason"]
    listed = "".join(f"\n  - {line}" for line in lines)
    return ModelError(
        f"TensorRT {version} cannot parse {model.name}: {len(lines)} error(s){listed}",
        why="the parser of this TensorRT takes other operators, types or forms of Q/DQ",
        mend="build the Q/DQ model for this target: `edgeq build MODEL --target NAME`",
        node=next((fault.node for fault in faults if fault.node), None),
        path=model,
    )


def failed_build(what: str, *, errors: Sequence[str]) -> BuildError:
    """Return the error of a step that TensorRT ended without a result, with what its log said."""
    listed = "".join(f"\n  - {line}" for line in errors) or "\n  - TensorRT's log has no error"
    return BuildError(
        f"{what}:{listed}",
        why="TensorRT found no way to run this network on this device with these limits",
        mend="look at the first line; with too little memory close other programs or change --workspace-mb",
    )


def failed_run(what: str, errors: Sequence[str]) -> BuildError:
    """Return the error of an engine that does not run, with what TensorRT's log said."""
    listed = "".join(f"\n  - {line}" for line in errors) or "\n  - TensorRT's log has no error"
    return BuildError(
        f"{what}:{listed}",
        why="an engine runs on the GPU and the TensorRT that built it, if memory is left",
        mend="close other programs, or build it anew: ./build.sh --rebuild",
    )
