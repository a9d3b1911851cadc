"""Is there a CUDA device? Asked of the driver itself, before any TensorRT object is made.

A TensorRT Builder or Runtime made without a driver is a null pointer that kills the process when it is touched
(deployment/tensorrt.md 1.5), so nothing may come before this probe. It makes no CUDA context and takes no GPU memory.
"""

import ctypes
from typing import Any, Callable, NamedTuple

from edgeq.core.errors import DeviceError

LIBRARY = "libcuda.so.1"
# CUdevice_attribute of cuda.h.
_CAPABILITY_MAJOR, _CAPABILITY_MINOR = 75, 76
_NAME_BYTES = 256


class Device(NamedTuple):
    """The GPU that TensorRT will use: the first that the driver shows.

    Attributes:
        name: as the driver calls it.
        compute_capability: for instance "8.7".
        cuda_version: the newest CUDA that the driver serves, for instance "12.6".
    """

    name: str
    compute_capability: str
    cuda_version: str


def probe_driver(open_library: Callable[[str], Any] = ctypes.CDLL) -> Device:
    """Return the first CUDA device.

    Args:
        open_library: loads a shared library by name.

    Raises:
        DeviceError: if there is no driver, it does not start, or it shows no device.
    """
    try:
        driver = open_library(LIBRARY)
    except OSError as error:
        raise _no_device(f"no NVIDIA driver: {error}") from error
    _call(driver, "cuInit", ctypes.c_uint(0))
    count = _read_int(driver, "cuDeviceGetCount")
    if count < 1:
        raise _no_device("the NVIDIA driver shows no device")
    device = _read_int(driver, "cuDeviceGet", ctypes.c_int(0))
    name = ctypes.create_string_buffer(_NAME_BYTES)
    _call(driver, "cuDeviceGetName", name, ctypes.c_int(_NAME_BYTES), ctypes.c_int(device))
    major, minor = (
        _read_int(driver, "cuDeviceGetAttribute", ctypes.c_int(item), ctypes.c_int(device))
        for item in (_CAPABILITY_MAJOR, _CAPABILITY_MINOR)
    )
    version = _read_int(driver, "cuDriverGetVersion")
    return Device(
        name=name.value.decode("utf-8", "replace"),
        compute_capability=f"{major}.{minor}",
        cuda_version=f"{version // 1000}.{version % 1000 // 10}",
    )


def _read_int(driver: Any, function: str, *arguments: Any) -> int:
    """Return the number that `function` writes to the place given as its first argument."""
    value = ctypes.c_int()
    _call(driver, function, ctypes.byref(value), *arguments)
    return value.value


def call_driver(driver: Any, function: str, *arguments: Any) -> int:
    """Return the code (CUresult) with which a function of the driver answers.

    Raises:
        DeviceError: if the driver has no such function.
    """
    try:
        call = getattr(driver, function)
    except AttributeError as error:
        raise DeviceError(
            f"the NVIDIA driver has no {function}",
            why="it is older than what edgeq knows: CUDA 11.4, that of JetPack 5, and later",
            mend="update the driver, or the JetPack",
        ) from error
    return int(call(*arguments))


def _call(driver: Any, function: str, *arguments: Any) -> None:
    code = call_driver(driver, function, *arguments)
    if code != 0:
        raise _no_device(f"the NVIDIA driver answers {function} with error {code}")


def _no_device(what: str) -> DeviceError:
    return DeviceError(
        what,
        why="TensorRT builds an engine on the GPU that will run it; without one it ends the process",
        mend="run this on the target, or copy the bundle there and run ./build.sh; `nvidia-smi` tells about the driver",
    )
