"""A stand-in for libcuda.so.1 whose memory is the host's: addresses are real, so that a stand-in engine can compute.

Work put into a stream is done at once, unless the stream is being captured: then it is kept for the graph. The clock of
events is a counter of milliseconds that `tick` moves.
"""

# ruff: noqa: N802 - the functions have the driver's names

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

ATTRIBUTES = {75: 8, 76: 7, 18: 1}  # compute capability 8.7, memory shared with the processor


class FakeCuda:
    """Plays the functions that `deploy.board` calls.

    Attributes:
        devices: how many GPUs it shows.
        failing: function name to the code that it answers.
        lacking: functions that this driver does not have.
        called: names of the functions, in order.
        live: what was taken and not given back: handle to kind.
        tick_ms: what one launch of an engine or a graph takes.
    """

    def __init__(
        self,
        *,
        devices: int = 1,
        failing: dict[str, int] | None = None,
        lacking: tuple[str, ...] = (),
    ) -> None:
        self.devices = devices
        self.lacking = lacking
        self.failing = failing or {}
        self.called: list[str] = []
        self.live: dict[int, str] = {}
        self.clock_ms = 0.0
        self.tick_ms = 2.0
        self._buffers: dict[int, Any] = {}
        self._events: dict[int, float] = {}
        self._graphs: dict[int, list[Callable[[], None]]] = {}
        self._capture: list[Callable[[], None]] | None = None
        self._next = 16

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("cu"):
            raise AttributeError(name)
        play = getattr(self, f"_{name}", None)
        if name in self.lacking:
            raise AttributeError(f"libcuda.so.1: undefined symbol: {name}")
        if play is None:
            raise AttributeError(f"libcuda has no played function {name}")

        def call(*arguments: Any) -> int:
            self.called.append(name)
            if name in self.failing:
                return self.failing[name]
            return int(play(*arguments) or 0)

        return call

    def work(self, job: Callable[[], None]) -> None:
        """Do `job` as the stream would: now, or when the graph under capture is launched."""
        if self._capture is not None:
            self._capture.append(job)
        else:
            job()

    def tick(self) -> None:
        """Let the time of one launch pass."""
        self.clock_ms += self.tick_ms

    def _take(self, place: Any, kind: str) -> int:
        self._next += 16
        place._obj.value = self._next
        self.live[self._next] = kind
        return self._next

    def _memory(self, place: Any, size: Any, kind: str) -> None:
        buffer = ctypes.create_string_buffer(size.value)
        address = ctypes.addressof(buffer)
        self._buffers[address] = buffer
        place._obj.value = address
        self.live[address] = kind

    def _cuInit(self, flags: Any) -> None:
        assert flags.value == 0

    def _cuDeviceGetCount(self, place: Any) -> None:
        place._obj.value = self.devices

    def _cuDeviceGet(self, place: Any, index: Any) -> int:
        place._obj.value = 0
        return 0 if self.devices else 101

    def _cuDeviceGetName(self, text: Any, size: Any, device: Any) -> None:
        text.value = b"Orin (nvgpu)"

    def _cuDeviceGetPCIBusId(self, text: Any, size: Any, device: Any) -> None:
        text.value = b"0000:65:00.0"

    def _cuDeviceGetAttribute(self, place: Any, attribute: Any, device: Any) -> None:
        place._obj.value = ATTRIBUTES[attribute.value]

    def _cuDriverGetVersion(self, place: Any) -> None:
        place._obj.value = 12060

    def _cuGetErrorString(self, code: Any, place: Any) -> None:
        place._obj.value = {2: b"out of memory"}.get(code.value, b"made up")

    def _cuDevicePrimaryCtxSetFlags_v2(self, device: Any, flags: Any) -> None:
        assert flags.value in (1, 4)

    def _cuDevicePrimaryCtxRetain(self, place: Any, device: Any) -> None:
        place._obj.value = 8
        self.live[8] = "context"

    def _cuDevicePrimaryCtxRelease_v2(self, device: Any) -> None:
        del self.live[8]

    def _cuCtxSetCurrent(self, context: Any) -> None:
        assert context.value == 8

    def _cuMemAlloc_v2(self, place: Any, size: Any) -> None:
        self._memory(place, size, "device")

    def _cuMemAllocManaged(self, place: Any, size: Any, flags: Any) -> None:
        assert flags.value == 1
        self._memory(place, size, "managed")

    def _cuMemHostAlloc(self, place: Any, size: Any, flags: Any) -> None:
        self._memory(place, size, "host")

    def _cuMemFree_v2(self, address: Any) -> None:
        assert self.live.pop(address.value) in ("device", "managed")

    def _cuMemFreeHost(self, address: Any) -> None:
        assert self.live.pop(address.value) == "host"

    def _cuMemcpyHtoDAsync_v2(self, target: Any, source: Any, size: Any, stream: Any) -> None:
        assert self.live[target.value] in ("device", "managed")
        self.work(lambda: ctypes.memmove(target.value, source.value, size.value) and None)

    def _cuMemcpyDtoHAsync_v2(self, target: Any, source: Any, size: Any, stream: Any) -> None:
        assert self.live[source.value] in ("device", "managed")
        self.work(lambda: ctypes.memmove(target.value, source.value, size.value) and None)

    def _cuStreamCreate(self, place: Any, flags: Any) -> None:
        self._take(place, "stream")

    def _cuStreamDestroy_v2(self, stream: Any) -> None:
        assert self.live.pop(stream.value) == "stream"

    def _cuStreamSynchronize(self, stream: Any) -> None:
        assert self.live[stream.value] == "stream"

    def _cuStreamWaitEvent(self, stream: Any, event: Any, flags: Any) -> None:
        assert self.live[event.value] == "event"

    def _cuEventCreate(self, place: Any, flags: Any) -> None:
        self._take(place, "event")

    def _cuEventDestroy_v2(self, event: Any) -> None:
        assert self.live.pop(event.value) == "event"

    def _cuEventRecord(self, event: Any, stream: Any) -> None:
        self._events[event.value] = self.clock_ms

    def _cuEventSynchronize(self, event: Any) -> None:
        assert event.value in self._events

    def _cuEventElapsedTime(self, place: Any, start: Any, end: Any) -> None:
        place._obj.value = self._events[end.value] - self._events[start.value]

    def _cuStreamBeginCapture_v2(self, stream: Any, mode: Any) -> None:
        assert mode.value == 1
        self._capture = []

    def _cuStreamEndCapture(self, stream: Any, place: Any) -> None:
        self._graphs[self._take(place, "graph")] = self._capture or []
        self._capture = None

    def _cuGraphInstantiateWithFlags(self, place: Any, graph: Any, flags: Any) -> None:
        self._graphs[self._take(place, "runnable")] = self._graphs[graph.value]

    def _cuGraphDestroy(self, graph: Any) -> None:
        assert self.live.pop(graph.value) == "graph"

    def _cuGraphExecDestroy(self, graph: Any) -> None:
        assert self.live.pop(graph.value) == "runnable"

    def _cuGraphLaunch(self, graph: Any, stream: Any) -> None:
        for job in self._graphs[graph.value]:
            job()
