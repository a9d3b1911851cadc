"""What a runtime has to be told of an engine before it sees its bytes."""

from typing import TYPE_CHECKING, NamedTuple, Optional

from deploy.board.portable import trust_engine

if TYPE_CHECKING:
    import tensorrt


class Loading(NamedTuple):
    """How an engine was built, as far as its runtime cannot find out.

    Attributes:
        dla_core: of DLA; None for the GPU alone.
        is_version_compatible: whether edgeq built it so: then the runtime has to run code that the engine brings.
    """

    dla_core: Optional[int] = None
    is_version_compatible: bool = False


def prepare_runtime(runtime: "tensorrt.Runtime", loading: Loading) -> None:
    """Have a runtime load an engine as it was built."""
    if loading.dla_core is not None:  # an engine does not know its core, and runs on 0 otherwise
        runtime.DLA_core = loading.dla_core
    if loading.is_version_compatible:
        trust_engine(runtime)
