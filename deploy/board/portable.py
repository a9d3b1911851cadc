"""Engines that run under a newer TensorRT or on another GPU: from TensorRT 8.6 on, and never needed otherwise."""

from typing import TYPE_CHECKING, Any, Tuple

from deploy.board.dialect import Dialect
from deploy.board.request import BuildRequest, HardwareLevel
from edgeq.core.errors import TargetError

if TYPE_CHECKING:
    import tensorrt


def require_portability(trt: Any, dialect: Dialect, request: BuildRequest) -> None:
    """Check that this TensorRT builds the portable engine that is asked for.

    Raises:
        TargetError: if it does not.
    """
    fault = dialect.check_compatibility(
        version=request.is_version_compatible, hardware=request.hardware.value
    )
    if (
        fault is None
        and request.is_portable
        and not hasattr(trt.HardwareCompatibilityLevel, request.hardware.name)
    ):
        fault = f"it has no hardware level '{request.hardware.value}'"
    if fault is not None:
        raise TargetError(
            f"TensorRT {trt.__version__} cannot build this portable engine: {fault}",
            why="an engine is portable only where its builder offers it",
            mend="leave --version-compatible and --hardware-compatible away, or choose another level",
        )


def make_portable(
    trt: Any, config: "tensorrt.IBuilderConfig", request: BuildRequest
) -> Tuple[str, ...]:
    """Set what `request` asks for; return the names of the flags."""
    if request.hardware is not HardwareLevel.NONE:
        config.hardware_compatibility_level = getattr(
            trt.HardwareCompatibilityLevel, request.hardware.name
        )
    if not request.is_version_compatible:
        return ()
    config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    return ("VERSION_COMPATIBLE",)


def keep_out_plugins(trt: Any, parser: "tensorrt.OnnxParser") -> None:
    """Have InstanceNormalization as layers: a portable engine cannot hold its plugin."""
    parser.set_flag(trt.OnnxParserFlag.NATIVE_INSTANCENORM)


def trust_engine(runtime: "tensorrt.Runtime") -> None:
    """Let the runtime run the code that a version-compatible engine brings; for engines of our own only."""
    runtime.engine_host_code_allowed = True
