"""What differs between the generations of TensorRT, as one base class; `releases` chooses among its children."""

from typing import Any, ClassVar, Optional, Sequence, Tuple

from deploy.board.monitor import PhaseTracker
from edgeq.core.progress import Progress


class Dialect:
    """The calls that another generation needs another form of.

    Attributes:
        versions: releases whose names a test held against the real bindings' (8.5: against a list made from documents).
        trt: the `tensorrt` module.
    """

    versions: ClassVar[Tuple[str, ...]] = ()

    def __init__(self, trt: Any) -> None:
        self.trt = trt

    def network_flags(self, *, is_weak: bool) -> int:
        """Return the argument of `create_network`."""
        raise NotImplementedError

    def set_precision(self, config: Any, *, is_weak: bool) -> Tuple[str, ...]:
        """Set the flags that let INT8 and FP16 kernels run; return their names."""
        raise NotImplementedError

    def check_compatibility(self, *, version: bool, hardware: str) -> Optional[str]:
        """Return why an asked compatibility is not to be had, or None."""
        raise NotImplementedError

    def read_node(self, error: Any, names: Sequence[str]) -> Tuple[str, str]:
        """Return name and operator of the node that a parser error belongs to; empty where it tells none.

        Args:
            error: of the parser.
            names: of the nodes of the ONNX file, in order.
        """
        raise NotImplementedError

    def watch_build(self, config: Any, progress: Progress) -> Optional[PhaseTracker]:
        """Have the build with `config` pass its phases on; return what follows them, None where none are told."""
        raise NotImplementedError
