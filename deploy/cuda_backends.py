"""Three ways to the GPU's memory, streams, events and graphs: ctypes, NVIDIA's cuda-python, and pycuda.

Entry: `open_cuda`. All have the methods of `deploy.board.cuda.Cuda` (a test holds the signatures together) and hand out
plain integers as handles. None of them was run on a GPU by us: the names of cuda-python were held against cuda-bindings
13.0, and those of pycuda against its documentation.
"""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, cast

import numpy as np

from deploy.board.cuda import Cuda
from edgeq.core.errors import DeviceError, InputError, describe_choices
from edgeq.core.optional import require

BACKENDS = ("ctypes", "cuda-python", "pycuda")


def open_cuda(name: str, *, is_spinning: bool) -> Cuda:
    """Return the first GPU through the library `name`; "ctypes" needs none but the driver's.

    Raises:
        InputError: if there is no such way.
        MissingDependencyError: if the library is not installed.
        DeviceError: if there is no driver or no GPU.
    """
    if name == "ctypes":
        return Cuda(is_spinning=is_spinning)
    if name == "cuda-python":
        return cast("Cuda", CudaPython(is_spinning=is_spinning))
    if name == "pycuda":
        return cast("Cuda", PyCuda(is_spinning=is_spinning))
    raise InputError(
        f"no CUDA access called '{name}'",
        why="an engine is run through one of three libraries",
        mend=describe_choices(name, BACKENDS),
    )


class _ClosedAtTheEnd(contextlib.AbstractContextManager["_ClosedAtTheEnd"]):
    """Gives everything back when its `with` ends; a fault of that does not hide one on its way."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self.close()
        except DeviceError:
            if error is None:
                raise

    def close(self) -> None:
        """Give back all that was taken."""
        raise NotImplementedError


class CudaPython(_ClosedAtTheEnd):
    """`Cuda` by cuda-python, whose functions return (code, value...)."""

    def __init__(self, *, is_spinning: bool = True) -> None:
        self._api = require(
            "cuda.bindings.driver",
            why="for --cuda cuda-python",
            install="pip install cuda-python  (of the major version of the driver's CUDA; `nvidia-smi` shows it)",
        )
        self._is_spinning = is_spinning
        self._owned: dict[int, Callable[[], Any]] = {}
        self._call("cuInit", 0)
        self._device = self._call("cuDeviceGet", 0)
        flags = self._api.CUctx_flags
        wait = flags.CU_CTX_SCHED_SPIN if is_spinning else flags.CU_CTX_SCHED_BLOCKING_SYNC
        self._call("cuDevicePrimaryCtxSetFlags", self._device, int(wait))
        context = self._call("cuDevicePrimaryCtxRetain", self._device)
        self._is_open = True
        self._call("cuCtxSetCurrent", context)
        kind = self._api.CUdevice_attribute.CU_DEVICE_ATTRIBUTE_INTEGRATED
        self.is_integrated = bool(self._call("cuDeviceGetAttribute", kind, self._device))

    def close(self) -> None:
        """Give back all that was taken, last first; a second call does nothing."""
        while self._owned:
            _, give_back = self._owned.popitem()
            give_back()
        if self._is_open:
            self._is_open = False
            self._call("cuDevicePrimaryCtxRelease", self._device)

    def allocate(self, size: int, *, is_managed: bool = False) -> int:
        """Return the address of `size` bytes on the GPU."""
        if is_managed:
            flag = int(self._api.CUmemAttach_flags.CU_MEM_ATTACH_GLOBAL)
            return self._own(self._call("cuMemAllocManaged", max(size, 1), flag), "cuMemFree")
        return self._own(self._call("cuMemAlloc", max(size, 1)), "cuMemFree")

    def free(self, address: int) -> None:
        """Give back what `allocate` returned."""
        self._owned.pop(address)()

    def allocate_host(self, like: Any) -> Any:
        """Return an array of the shape and type of `like` in page-locked memory."""
        size = max(like.nbytes, 1)
        place = self._own(self._call("cuMemHostAlloc", size, 0), "cuMemFreeHost")
        memory = (ctypes.c_char * size).from_address(place)
        return np.frombuffer(memory, like.dtype, like.size).reshape(like.shape)

    def upload(self, address: int, array: Any, stream: int) -> None:
        """Copy a contiguous array to the GPU, in the order of `stream`."""
        self._call("cuMemcpyHtoDAsync", address, array.ctypes.data, array.nbytes, stream)

    def download(self, array: Any, address: int, stream: int) -> None:
        """Copy from the GPU into a contiguous array, in the order of `stream`."""
        self._call("cuMemcpyDtoHAsync", array.ctypes.data, address, array.nbytes, stream)

    def create_stream(self) -> int:
        """Return a stream that does not wait for others."""
        flag = int(self._api.CUstream_flags.CU_STREAM_NON_BLOCKING)
        return self._own(self._call("cuStreamCreate", flag), "cuStreamDestroy")

    def synchronize(self, stream: int) -> None:
        """Wait for all that was put into `stream`."""
        self._call("cuStreamSynchronize", stream)

    def create_event(self) -> int:
        """Return an event that can be timed."""
        flags = self._api.CUevent_flags
        flag = flags.CU_EVENT_DEFAULT if self._is_spinning else flags.CU_EVENT_BLOCKING_SYNC
        return self._own(self._call("cuEventCreate", int(flag)), "cuEventDestroy")

    def record(self, event: int, stream: int) -> None:
        """Have `event` happen when `stream` gets here."""
        self._call("cuEventRecord", event, stream)

    def wait(self, event: int) -> None:
        """Wait until `event` happened."""
        self._call("cuEventSynchronize", event)

    def make_wait(self, stream: int, event: int) -> None:
        """Have `stream` go on only after `event`."""
        self._call("cuStreamWaitEvent", stream, event, 0)

    def elapsed_ms(self, start: int, end: int) -> float:
        """Return the time between two events that happened, in ms."""
        return float(self._call("cuEventElapsedTime", start, end))

    def capture(self, stream: int, enqueue: Callable[[], None]) -> int:
        """Return a graph of what `enqueue` puts into `stream`; nothing of it runs yet."""
        mode = self._api.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        self._call("cuStreamBeginCapture", stream, mode)
        try:
            enqueue()
        except BaseException:
            self._api.cuStreamEndCapture(stream)  # fails, and ends the capture
            raise
        graph = self._call("cuStreamEndCapture", stream)
        runnable = self._call("cuGraphInstantiate", graph, 0)
        self._call("cuGraphDestroy", graph)
        return self._own(runnable, "cuGraphExecDestroy")

    def launch(self, graph: int, stream: int) -> None:
        """Put a captured graph into `stream`."""
        self._call("cuGraphLaunch", graph, stream)

    def _own(self, handle: Any, give_back: str) -> int:
        value = int(handle)
        self._owned[value] = lambda: self._call(give_back, value)
        return value

    def _call(self, function: str, *arguments: Any) -> Any:
        """Return the value of a function, or None where it has none."""
        try:
            code, *values = getattr(self._api, function)(*arguments)
        except RuntimeError as error:  # how it says that the driver's library is absent
            raise _failed(function, f"{type(error).__name__}: {error}") from error
        if int(code) != 0:
            raise _failed(function, f"error {int(code)} ({code})")
        return values[0] if values else None


class PyCuda(_ClosedAtTheEnd):
    """`Cuda` by pycuda, whose objects give back what they hold when they die. It has no graphs."""

    def __init__(self, *, is_spinning: bool = True) -> None:
        why, install = (
            "for --cuda pycuda",
            "pip install pycuda  (needs a compiler and CUDA's headers)",
        )
        self._api = require("pycuda.driver", why=why, install=install)
        self._is_spinning = is_spinning
        self._objects: dict[int, Any] = {0: None}
        with self._explained():
            self._api.init()
            device = self._api.Device(0)
            # The primary context is the one that TensorRT works in.
            self._context = device.retain_primary_context()
            self._context.push()
            kind = self._api.device_attribute.INTEGRATED
            self.is_integrated = bool(device.get_attribute(kind))

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        super().__exit__(kind, error, trace)
        with self._explained():  # every fault of pycuda comes by here
            if isinstance(error, self._api.Error):
                raise error

    def close(self) -> None:
        """Give back all that was taken, last first; a second call does nothing."""
        while self._objects:
            self._objects.popitem()
        if self._context is not None:
            context, self._context = self._context, None
            with self._explained():
                context.pop()

    def allocate(self, size: int, *, is_managed: bool = False) -> int:
        """Return the address of `size` bytes on the GPU."""
        if is_managed:
            flag = self._api.mem_attach_flags.GLOBAL
            array = self._api.managed_empty(max(size, 1), np.uint8, mem_flags=flag)
            return self._keep(int(array.ctypes.data), array)
        memory = self._api.mem_alloc(max(size, 1))
        return self._keep(int(memory), memory)

    def free(self, address: int) -> None:
        """Give back what `allocate` returned."""
        del self._objects[address]

    def allocate_host(self, like: Any) -> Any:
        """Return an array of the shape and type of `like` in page-locked memory."""
        return self._api.pagelocked_empty(like.shape, like.dtype)

    def upload(self, address: int, array: Any, stream: int) -> None:
        """Copy a contiguous array to the GPU, in the order of `stream`."""
        self._api.memcpy_htod_async(address, array, self._objects[stream])

    def download(self, array: Any, address: int, stream: int) -> None:
        """Copy from the GPU into a contiguous array, in the order of `stream`."""
        self._api.memcpy_dtoh_async(array, address, self._objects[stream])

    def create_stream(self) -> int:
        """Return a stream."""
        stream = self._api.Stream()
        return self._keep(int(stream.handle), stream)

    def synchronize(self, stream: int) -> None:
        """Wait for all that was put into `stream`."""
        self._objects[stream].synchronize()

    def create_event(self) -> int:
        """Return an event that can be timed."""
        flags = self._api.event_flags
        event = self._api.Event(flags.DEFAULT if self._is_spinning else flags.BLOCKING_SYNC)
        return self._keep(id(event), event)

    def record(self, event: int, stream: int) -> None:
        """Have `event` happen when `stream` gets here."""
        self._objects[event].record(self._objects[stream])

    def wait(self, event: int) -> None:
        """Wait until `event` happened."""
        self._objects[event].synchronize()

    def make_wait(self, stream: int, event: int) -> None:
        """Have `stream` go on only after `event`."""
        self._objects[stream].wait_for_event(self._objects[event])

    def elapsed_ms(self, start: int, end: int) -> float:
        """Return the time between two events that happened, in ms."""
        return float(self._objects[start].time_till(self._objects[end]))

    def capture(self, stream: int, enqueue: Callable[[], None]) -> int:
        """Refuse: pycuda has no graphs, so the caller goes on without and says so."""
        raise _no_graphs()

    def launch(self, graph: int, stream: int) -> None:
        """Refuse, as `capture` does."""
        raise _no_graphs()

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn what pycuda raises into a DeviceError."""
        try:
            yield
        except self._api.Error as error:
            raise _failed("pycuda", f"{type(error).__name__}: {error}") from error

    def _keep(self, handle: int, value: Any) -> int:
        self._objects[handle] = value
        return handle


def _no_graphs() -> DeviceError:
    return DeviceError(
        "pycuda has no CUDA graphs",
        why="its interface ends at streams and events",
        mend="pass --cuda ctypes or cuda-python, or --no-cuda-graph",
    )


def _failed(function: str, what: str) -> DeviceError:
    return DeviceError(
        f"CUDA answers {function} with {what}",
        why="the engine cannot run or be timed like this",
        mend="run this on the target; `nvidia-smi` or `tegrastats` tells about its GPU",
    )
