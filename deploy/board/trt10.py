"""TensorRT 10.x: weak typing by flags, or strong typing where the target asks for it."""

from typing import TYPE_CHECKING, ClassVar, Optional, Sequence, Tuple

from deploy.board.dialect import Dialect
from deploy.board.monitor import PhaseTracker, watch_build
from edgeq.core.progress import Progress

if TYPE_CHECKING:
    import tensorrt


class TensorRT10(Dialect):
    """The dialect of 10.0 to 10.16."""

    versions: ClassVar[Tuple[str, ...]] = ("10.0", "10.3", "10.7", "10.13", "10.16")

    def network_flags(self, *, is_weak: bool) -> int:
        """Return no flag for weak typing (the batch axis is always explicit), else that of strong typing."""
        return 0 if is_weak else 1 << int(self.trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)

    def set_precision(self, config: "tensorrt.IBuilderConfig", *, is_weak: bool) -> Tuple[str, ...]:
        """Set INT8 and FP16 for weak typing; strong typing refuses them."""
        if not is_weak:
            return ()
        config.set_flag(self.trt.BuilderFlag.INT8)
        config.set_flag(self.trt.BuilderFlag.FP16)
        return ("INT8", "FP16")

    def check_compatibility(self, *, version: bool, hardware: str) -> Optional[str]:
        """All of it is there; which hardware levels, the enumeration tells."""
        return None

    def read_node(self, error: "tensorrt.ParserError", names: Sequence[str]) -> Tuple[str, str]:
        """Return what the error itself tells."""
        return str(error.node_name()), str(error.node_operator())

    def watch_build(
        self, config: "tensorrt.IBuilderConfig", progress: Progress
    ) -> Optional[PhaseTracker]:
        """Have the phases of the build passed on."""
        return watch_build(self.trt, config, progress)
