"""Is this machine the target that a Q/DQ model was made for?"""

from deploy.board.driver import Device
from edgeq.core.errors import TargetError
from edgeq.core.optional import version_numbers


def require_target(
    target: str,
    device: Device,
    version: str,
    *,
    wanted_version: str,
    wanted_capability: str,
) -> None:
    """Check that this machine is the target; all that differs is said at once.

    Args:
        target: name of the target's card.
        device: the GPU that is here.
        version: of the TensorRT that is here.
        wanted_version: of TensorRT, on the card.
        wanted_capability: compute capability on the card; empty for any.

    Raises:
        TargetError: if it is not.
    """
    found = []
    if version_numbers(version)[:2] != version_numbers(wanted_version)[:2]:
        found.append(f"TensorRT is {version}, the card has {wanted_version}")
    if wanted_capability not in ("", device.compute_capability):
        found.append(
            f"{device.name} has compute capability {device.compute_capability}, "
            f"the card has {wanted_capability}"
        )
    if found:
        raise TargetError(
            f"this machine is not {target}: {'; '.join(found)}",
            why="an engine runs on the GPU and the TensorRT that built it, and the Q/DQ model has its parser's form",
            mend="pass the --target that this machine is (`edgeq targets`), with a model built for it",
        )


def how_to_install(stack: str, wanted_version: str) -> str:
    """Return the command that installs TensorRT's Python bindings where `stack` runs."""
    if "JetPack" in stack:
        return (
            "sudo apt-get install python3-libnvinfer  (it comes with JetPack; a virtual environment sees it "
            "with --system-site-packages)"
        )
    major, minor = version_numbers(wanted_version)[:2]
    return f"pip install 'tensorrt=={major}.{minor}.*'"
