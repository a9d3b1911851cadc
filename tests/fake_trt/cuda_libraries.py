"""Stand-ins for cuda-python's `cuda.bindings.driver` and for `pycuda.driver`, both over the stand-in for libcuda.

The names and the order of arguments of the first are those of cuda-bindings 13.0.3, of the second those of its manual.
"""

from __future__ import annotations

import ctypes
import enum
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np

from fake_trt.cuda import FakeCuda


class CUresult(enum.IntEnum):
    """The codes that the tests play."""

    CUDA_SUCCESS = 0
    CUDA_ERROR_OUT_OF_MEMORY = 2


# Name in Python: name in the library, type of the value that it returns, types of its arguments.
_U, _P, _S, _I, _D = (
    ctypes.c_uint,
    ctypes.c_void_p,
    ctypes.c_size_t,
    ctypes.c_int,
    ctypes.c_uint64,
)
_FUNCTIONS: dict[str, tuple[str, Any, tuple[Any, ...]]] = {
    "cuInit": ("cuInit", None, (_U,)),
    "cuDeviceGet": ("cuDeviceGet", _I, (_I,)),
    "cuDevicePrimaryCtxSetFlags": ("cuDevicePrimaryCtxSetFlags_v2", None, (_I, _U)),
    "cuDevicePrimaryCtxRetain": ("cuDevicePrimaryCtxRetain", _P, (_I,)),
    "cuDevicePrimaryCtxRelease": ("cuDevicePrimaryCtxRelease_v2", None, (_I,)),
    "cuCtxSetCurrent": ("cuCtxSetCurrent", None, (_P,)),
    "cuDeviceGetAttribute": ("cuDeviceGetAttribute", _I, (_I, _I)),
    "cuMemAlloc": ("cuMemAlloc_v2", _D, (_S,)),
    "cuMemAllocManaged": ("cuMemAllocManaged", _D, (_S, _U)),
    "cuMemFree": ("cuMemFree_v2", None, (_D,)),
    "cuMemHostAlloc": ("cuMemHostAlloc", _P, (_S, _U)),
    "cuMemFreeHost": ("cuMemFreeHost", None, (_P,)),
    "cuMemcpyHtoDAsync": ("cuMemcpyHtoDAsync_v2", None, (_D, _P, _S, _P)),
    "cuMemcpyDtoHAsync": ("cuMemcpyDtoHAsync_v2", None, (_P, _D, _S, _P)),
    "cuStreamCreate": ("cuStreamCreate", _P, (_U,)),
    "cuStreamDestroy": ("cuStreamDestroy_v2", None, (_P,)),
    "cuStreamSynchronize": ("cuStreamSynchronize", None, (_P,)),
    "cuStreamWaitEvent": ("cuStreamWaitEvent", None, (_P, _P, _U)),
    "cuEventCreate": ("cuEventCreate", _P, (_U,)),
    "cuEventDestroy": ("cuEventDestroy_v2", None, (_P,)),
    "cuEventRecord": ("cuEventRecord", None, (_P, _P)),
    "cuEventSynchronize": ("cuEventSynchronize", None, (_P,)),
    "cuEventElapsedTime": ("cuEventElapsedTime", ctypes.c_float, (_P, _P)),
    "cuStreamBeginCapture": ("cuStreamBeginCapture_v2", None, (_P, _I)),
    "cuStreamEndCapture": ("cuStreamEndCapture", _P, (_P,)),
    "cuGraphInstantiate": ("cuGraphInstantiateWithFlags", _P, (_P, ctypes.c_ulonglong)),
    "cuGraphDestroy": ("cuGraphDestroy", None, (_P,)),
    "cuGraphExecDestroy": ("cuGraphExecDestroy", None, (_P,)),
    "cuGraphLaunch": ("cuGraphLaunch", None, (_P, _P)),
}
_LAST = {"cuStreamEndCapture"}  # the place for the value comes after the arguments


def make_cuda_bindings(driver: FakeCuda) -> ModuleType:
    """Return a module like `cuda.bindings.driver`."""
    module: Any = ModuleType("cuda.bindings.driver")
    module.CUctx_flags = enum.IntEnum(
        "CUctx_flags", {"CU_CTX_SCHED_SPIN": 1, "CU_CTX_SCHED_BLOCKING_SYNC": 4}
    )
    module.CUmemAttach_flags = enum.IntEnum("CUmemAttach_flags", {"CU_MEM_ATTACH_GLOBAL": 1})
    module.CUstream_flags = enum.IntEnum("CUstream_flags", {"CU_STREAM_NON_BLOCKING": 1})
    module.CUevent_flags = enum.IntEnum(
        "CUevent_flags", {"CU_EVENT_DEFAULT": 0, "CU_EVENT_BLOCKING_SYNC": 1}
    )
    module.CUstreamCaptureMode = enum.IntEnum(
        "CUstreamCaptureMode", {"CU_STREAM_CAPTURE_MODE_THREAD_LOCAL": 1}
    )
    module.CUdevice_attribute = enum.IntEnum(
        "CUdevice_attribute", {"CU_DEVICE_ATTRIBUTE_INTEGRATED": 18}
    )
    for name, (real, kind, kinds) in _FUNCTIONS.items():
        setattr(module, name, _translated(driver, name, real, kind, kinds))
    return module


def _translated(driver: FakeCuda, name: str, real: str, kind: Any, kinds: tuple[Any, ...]) -> Any:
    def call(*arguments: Any) -> tuple[Any, ...]:
        given = [make(int(value)) for make, value in zip(kinds, arguments, strict=True)]
        function = getattr(driver, real)
        if kind is None:
            return (CUresult(function(*given)),)
        place = kind()
        places = [*given, ctypes.byref(place)] if name in _LAST else [ctypes.byref(place), *given]
        code = CUresult(function(*places))
        return (code, place.value if code == 0 else None)

    return call


def make_pycuda(driver: FakeCuda) -> ModuleType:
    """Return a module like `pycuda.driver`; its objects give back what they hold when they die."""
    module: Any = ModuleType("pycuda.driver")

    def ask(name: str, kind: Any, *arguments: Any) -> Any:
        place = kind()
        assert getattr(driver, name)(ctypes.byref(place), *arguments) == 0
        return place.value

    class Context:
        def push(self) -> None:
            driver.cuCtxSetCurrent(_P(8))

        def pop(self) -> None:
            driver.cuDevicePrimaryCtxRelease_v2(_I(0))

    class Device:
        def __init__(self, index: int) -> None:
            ask("cuDeviceGet", _I, _I(index))

        def retain_primary_context(self) -> Context:
            ask("cuDevicePrimaryCtxRetain", _P, _I(0))
            return Context()

        def get_attribute(self, attribute: int) -> int:
            return int(ask("cuDeviceGetAttribute", _I, _I(attribute), _I(0)))

    class DeviceAllocation:
        def __init__(self, size: int) -> None:
            if "cuMemAlloc_v2" in driver.failing:
                raise module.Error("cuMemAlloc failed: out of memory")
            self._address = ask("cuMemAlloc_v2", _D, _S(size))

        def __int__(self) -> int:
            return int(self._address)

        def __del__(self) -> None:
            if hasattr(self, "_address"):
                driver.cuMemFree_v2(_D(self._address))

    class Stream:
        def __init__(self) -> None:
            self.handle = ask("cuStreamCreate", _P, _U(0))

        def synchronize(self) -> None:
            driver.cuStreamSynchronize(_P(self.handle))

        def wait_for_event(self, event: Any) -> None:
            driver.cuStreamWaitEvent(_P(self.handle), _P(event.handle), _U(0))

        def __del__(self) -> None:
            driver.cuStreamDestroy_v2(_P(self.handle))

    class Event:
        def __init__(self, flags: int) -> None:
            self.handle = ask("cuEventCreate", _P, _U(flags))

        def record(self, stream: Stream) -> None:
            driver.cuEventRecord(_P(self.handle), _P(stream.handle))

        def synchronize(self) -> None:
            driver.cuEventSynchronize(_P(self.handle))

        def time_till(self, end: Any) -> float:
            return float(ask("cuEventElapsedTime", ctypes.c_float, _P(self.handle), _P(end.handle)))

        def __del__(self) -> None:
            driver.cuEventDestroy_v2(_P(self.handle))

    class _Array(np.ndarray):
        pass

    def managed_empty(shape: Any, dtype: Any, *, mem_flags: int) -> Any:
        assert mem_flags == 1
        array = np.empty(shape, dtype).view(_Array)
        driver.live[array.ctypes.data] = "managed"
        array.keep = _Keep(driver, array.ctypes.data)
        return array

    def copy(name: str, target: Any, source: Any, size: int, stream: Stream) -> None:
        getattr(driver, name)(target, source, _S(size), _P(stream.handle))

    def memcpy_htod_async(target: int, array: Any, stream: Stream) -> None:
        copy("cuMemcpyHtoDAsync_v2", _D(target), _P(array.ctypes.data), array.nbytes, stream)

    def memcpy_dtoh_async(array: Any, source: int, stream: Stream) -> None:
        copy("cuMemcpyDtoHAsync_v2", _P(array.ctypes.data), _D(source), array.nbytes, stream)

    module.Error = type("Error", (Exception,), {})
    module.init = lambda: driver.cuInit(_U(0))
    module.Device, module.Stream, module.Event = Device, Stream, Event
    module.mem_alloc, module.managed_empty = DeviceAllocation, managed_empty
    module.pagelocked_empty = np.empty
    module.memcpy_htod_async, module.memcpy_dtoh_async = memcpy_htod_async, memcpy_dtoh_async
    module.device_attribute = SimpleNamespace(INTEGRATED=18)
    module.mem_attach_flags = SimpleNamespace(GLOBAL=1)
    module.event_flags = SimpleNamespace(DEFAULT=0, BLOCKING_SYNC=1)
    return module


class _Keep:
    """Gives managed memory back when its array dies."""

    def __init__(self, driver: FakeCuda, address: int) -> None:
        self._driver, self._address = driver, address

    def __del__(self) -> None:
        del self._driver.live[self._address]
