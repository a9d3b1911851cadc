"""GPU memory, streams, events and graphs by ctypes: nothing to install on a board. Main entry: `Cuda`.

It calls the driver library, libcuda.so.1, and not the runtime libcudart: the first has one name in every release and is
where the driver is, the second has a version in its name and may be missing beside TensorRT. TensorRT works in the
GPU's primary context, which is the one retained here, so addresses and streams are valid in both. Names and arguments
are those of CUDA 13.0's cuda.h; all exist since CUDA 11.4, that of JetPack 5. Not run on a GPU by us.
"""

import ctypes
from types import TracebackType
from typing import Any, Callable, Dict, Optional, Type

import numpy as np

from deploy.board.driver import LIBRARY, call_driver
from edgeq.core.errors import DeviceError

# Constants of cuda.h.
_SCHEDULE_SPIN, _SCHEDULE_BLOCKING = 1, 4  # CUctx_flags
_EVENT_BLOCKING = 1  # CUevent_flags
_STREAM_NON_BLOCKING = 1  # CUstream_flags
_CAPTURE_THREAD_LOCAL = 1  # CUstreamCaptureMode, the one that trtexec uses
_ATTACH_GLOBAL = 1  # CUmemAttach_flags
_INTEGRATED = 18  # CUdevice_attribute


class Cuda:
    """The first GPU, for one thread; everything taken from it is given back by `close`.

    Handles (streams, events, graphs) and addresses are plain integers, as TensorRT takes them.

    Args:
        is_spinning: wait by spinning, which is quick and keeps a core busy, or by sleeping.
        open_library: loads a shared library by name.

    Attributes:
        is_integrated: whether GPU and processor share one memory, as on every Jetson.

    Raises:
        DeviceError: if there is no driver or no GPU, or a call fails; every method can raise it.
    """

    def __init__(
        self, *, is_spinning: bool = True, open_library: Callable[[str], Any] = ctypes.CDLL
    ) -> None:
        try:
            self._driver = open_library(LIBRARY)
        except OSError as error:
            raise DeviceError(
                f"no NVIDIA driver: {error}",
                why="an engine runs on an NVIDIA GPU",
                mend="run this on the target",
            ) from error
        self._is_spinning = is_spinning
        self._owned: Dict[int, str] = {}  # what is to be given back, and by which function
        self._call("cuInit", ctypes.c_uint(0))
        self._device = ctypes.c_int()
        self._call("cuDeviceGet", ctypes.byref(self._device), ctypes.c_int(0))
        schedule = _SCHEDULE_SPIN if is_spinning else _SCHEDULE_BLOCKING
        self._call("cuDevicePrimaryCtxSetFlags_v2", self._device, ctypes.c_uint(schedule))
        context = ctypes.c_void_p()
        self._call("cuDevicePrimaryCtxRetain", ctypes.byref(context), self._device)
        self._is_open = True
        self._call("cuCtxSetCurrent", context)
        flag = ctypes.c_int()
        self._call(
            "cuDeviceGetAttribute", ctypes.byref(flag), ctypes.c_int(_INTEGRATED), self._device
        )
        self.is_integrated = bool(flag.value)

    def __enter__(self) -> "Cuda":
        return self

    def __exit__(
        self,
        kind: Optional[Type[BaseException]],
        error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        try:
            self.close()
        except DeviceError:
            # A fault that is on its way is the one to tell: this is mostly its echo.
            if error is None:
                raise

    def close(self) -> None:
        """Give back all that was taken, last first; a second call does nothing."""
        while self._owned:
            handle, function = self._owned.popitem()
            kind = ctypes.c_uint64 if function == "cuMemFree_v2" else ctypes.c_void_p
            self._call(function, kind(handle))
        if self._is_open:
            self._is_open = False
            self._call("cuDevicePrimaryCtxRelease_v2", self._device)

    def allocate(self, size: int, *, is_managed: bool = False) -> int:
        """Return the address of `size` bytes on the GPU; managed ones move between both memories by themselves."""
        address = ctypes.c_uint64()
        arguments = (ctypes.byref(address), ctypes.c_size_t(max(size, 1)))
        if is_managed:
            self._call("cuMemAllocManaged", *arguments, ctypes.c_uint(_ATTACH_GLOBAL))
        else:
            self._call("cuMemAlloc_v2", *arguments)
        return self._own(address, "cuMemFree_v2")

    def free(self, address: int) -> None:
        """Give back what `allocate` returned."""
        self._call(self._owned.pop(address), ctypes.c_uint64(address))

    def allocate_host(self, like: Any) -> Any:
        """Return an array of the shape and type of the array `like`, in memory from which copies need no processor."""
        place = ctypes.c_void_p()
        size = max(like.nbytes, 1)
        self._call("cuMemHostAlloc", ctypes.byref(place), ctypes.c_size_t(size), ctypes.c_uint(0))
        address = self._own(place, "cuMemFreeHost")
        memory = (ctypes.c_char * size).from_address(address)
        return np.frombuffer(memory, like.dtype, like.size).reshape(like.shape)

    def upload(self, address: int, array: Any, stream: int) -> None:
        """Copy a contiguous array to the GPU, in the order of `stream`; the array must live until that is done."""
        self._call(
            "cuMemcpyHtoDAsync_v2",
            ctypes.c_uint64(address),
            ctypes.c_void_p(array.ctypes.data),
            ctypes.c_size_t(array.nbytes),
            ctypes.c_void_p(stream),
        )

    def download(self, array: Any, address: int, stream: int) -> None:
        """Copy from the GPU into a contiguous array, in the order of `stream`."""
        self._call(
            "cuMemcpyDtoHAsync_v2",
            ctypes.c_void_p(array.ctypes.data),
            ctypes.c_uint64(address),
            ctypes.c_size_t(array.nbytes),
            ctypes.c_void_p(stream),
        )

    def create_stream(self) -> int:
        """Return a stream that does not wait for others."""
        return self._create(
            "cuStreamCreate", ctypes.c_uint(_STREAM_NON_BLOCKING), "cuStreamDestroy_v2"
        )

    def synchronize(self, stream: int) -> None:
        """Wait for all that was put into `stream`."""
        self._call("cuStreamSynchronize", ctypes.c_void_p(stream))

    def create_event(self) -> int:
        """Return an event that can be timed."""
        flags = 0 if self._is_spinning else _EVENT_BLOCKING
        return self._create("cuEventCreate", ctypes.c_uint(flags), "cuEventDestroy_v2")

    def record(self, event: int, stream: int) -> None:
        """Have `event` happen when `stream` gets here."""
        self._call("cuEventRecord", ctypes.c_void_p(event), ctypes.c_void_p(stream))

    def wait(self, event: int) -> None:
        """Wait until `event` happened."""
        self._call("cuEventSynchronize", ctypes.c_void_p(event))

    def make_wait(self, stream: int, event: int) -> None:
        """Have `stream` go on only after `event`."""
        arguments = (ctypes.c_void_p(stream), ctypes.c_void_p(event))
        self._call("cuStreamWaitEvent", *arguments, ctypes.c_uint(0))

    def elapsed_ms(self, start: int, end: int) -> float:
        """Return the time between two events that happened, in ms, to about half a microsecond."""
        value = ctypes.c_float()
        arguments = (ctypes.c_void_p(start), ctypes.c_void_p(end))
        self._call("cuEventElapsedTime", ctypes.byref(value), *arguments)
        return value.value

    def capture(self, stream: int, enqueue: Callable[[], None]) -> int:
        """Return a graph of what `enqueue` puts into `stream`; nothing of it runs yet.

        Raises:
            DeviceError: also if something in it cannot be captured; the stream is usable afterwards.
        """
        handle = ctypes.c_void_p(stream)
        graph = ctypes.c_void_p()
        self._call("cuStreamBeginCapture_v2", handle, ctypes.c_int(_CAPTURE_THREAD_LOCAL))
        try:
            enqueue()
        except BaseException:
            self._driver.cuStreamEndCapture(
                handle, ctypes.byref(graph)
            )  # fails, and ends the capture
            raise
        self._call("cuStreamEndCapture", handle, ctypes.byref(graph))
        runnable = ctypes.c_void_p()
        arguments = (ctypes.byref(runnable), graph, ctypes.c_ulonglong(0))
        try:
            self._call("cuGraphInstantiateWithFlags", *arguments)
        finally:
            self._driver.cuGraphDestroy(graph)
        return self._own(runnable, "cuGraphExecDestroy")

    def launch(self, graph: int, stream: int) -> None:
        """Put a captured graph into `stream`."""
        self._call("cuGraphLaunch", ctypes.c_void_p(graph), ctypes.c_void_p(stream))

    def _create(self, function: str, flags: Any, give_back: str) -> int:
        handle = ctypes.c_void_p()
        self._call(function, ctypes.byref(handle), flags)
        return self._own(handle, give_back)

    def _own(self, handle: Any, give_back: str) -> int:
        value = int(handle.value)
        self._owned[value] = give_back
        return value

    def _call(self, function: str, *arguments: Any) -> None:
        code = call_driver(self._driver, function, *arguments)
        if code != 0:
            raise DeviceError(
                f"the NVIDIA driver answers {function} with {self._describe(code)}",
                why="the engine cannot run or be timed like this",
                mend="close other programs on the GPU and try again; `nvidia-smi` or `tegrastats` shows its memory",
            )

    def _describe(self, code: int) -> str:
        text = ctypes.c_char_p()
        call_driver(self._driver, "cuGetErrorString", ctypes.c_int(code), ctypes.byref(text))
        return f"error {code} ({(text.value or b'unknown').decode('ascii', 'replace')})"
