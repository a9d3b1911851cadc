"""TensorRT 8.5 and 8.6: explicit batch, weak typing only, parser errors without names, no progress.

8.5 is written from the documentation: no bindings of it were at hand (deployment/tensorrt.md 1.4).
"""

from typing import TYPE_CHECKING, ClassVar, Optional, Sequence, Tuple

from deploy.board.dialect import Dialect
from deploy.board.monitor import PhaseTracker
from edgeq.core.optional import version_numbers
from edgeq.core.progress import Progress

if TYPE_CHECKING:
    import tensorrt


class TensorRT8(Dialect):
    """The dialect of 8.5 and 8.6."""

    versions: ClassVar[Tuple[str, ...]] = ("8.5", "8.6")

    def network_flags(self, *, is_weak: bool) -> int:
        """Return the flag of an explicit batch axis; there is no strong typing."""
        return 1 << int(self.trt.NetworkDefinitionCreationFlag.EXPLICIT_BATCH)

    def set_precision(self, config: "tensorrt.IBuilderConfig", *, is_weak: bool) -> Tuple[str, ...]:
        """Set INT8, without which Q/DQ is refused, and FP16 for the remainder."""
        config.set_flag(self.trt.BuilderFlag.INT8)
        config.set_flag(self.trt.BuilderFlag.FP16)
        return ("INT8", "FP16")

    def check_compatibility(self, *, version: bool, hardware: str) -> Optional[str]:
        """Both came with 8.6."""
        if (version or hardware != "none") and version_numbers(self.trt.__version__) < (8, 6):
            return "version- and hardware-compatible engines came with TensorRT 8.6"
        return None

    def read_node(self, error: "tensorrt.ParserError", names: Sequence[str]) -> Tuple[str, str]:
        """Look the node up by its place in the file: the error has no name."""
        index = int(error.node())
        return (names[index] if 0 <= index < len(names) else "", "")

    def watch_build(
        self, config: "tensorrt.IBuilderConfig", progress: Progress
    ) -> Optional[PhaseTracker]:
        """Return None: IProgressMonitor came with TensorRT 9."""
        return None
