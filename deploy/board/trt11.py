"""TensorRT 11.x: always strongly typed; the precision flags are gone."""

from typing import TYPE_CHECKING, ClassVar, Optional, Sequence, Tuple

from deploy.board.dialect import Dialect
from deploy.board.monitor import PhaseTracker, watch_build
from edgeq.core.progress import Progress

if TYPE_CHECKING:
    import tensorrt


class TensorRT11(Dialect):
    """The dialect of 11.0 to 11.4."""

    versions: ClassVar[Tuple[str, ...]] = ("11.0", "11.4")

    def network_flags(self, *, is_weak: bool) -> int:
        """Return no flag: there is nothing to choose."""
        return 0

    def set_precision(self, config: "tensorrt.IBuilderConfig", *, is_weak: bool) -> Tuple[str, ...]:
        """Set nothing: every layer runs in the type that the file writes."""
        return ()

    def check_compatibility(self, *, version: bool, hardware: str) -> Optional[str]:
        """All of it is there."""
        return None

    def read_node(self, error: "tensorrt.ParserError", names: Sequence[str]) -> Tuple[str, str]:
        """Return what the error itself tells."""
        return str(error.node_name()), str(error.node_operator())

    def watch_build(
        self, config: "tensorrt.IBuilderConfig", progress: Progress
    ) -> Optional[PhaseTracker]:
        """Have the phases of the build passed on."""
        return watch_build(self.trt, config, progress)
