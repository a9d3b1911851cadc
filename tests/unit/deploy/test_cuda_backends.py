"""The three libraries that reach a GPU behave alike; each over the same stand-in for the driver."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from fake_trt.cuda import FakeCuda
from fake_trt.cuda_libraries import make_cuda_bindings, make_pycuda

from deploy.board.cuda import Cuda
from deploy.cuda_backends import BACKENDS, CudaPython, PyCuda, open_cuda
from edgeq.core.errors import DeviceError, InputError, MissingDependencyError

WITH_GRAPHS = ("ctypes", "cuda-python")


@pytest.fixture
def driver() -> FakeCuda:
    return FakeCuda()


@pytest.fixture
def open_named(driver: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Cuda]:
    monkeypatch.setitem(sys.modules, "cuda.bindings.driver", make_cuda_bindings(driver))
    monkeypatch.setitem(sys.modules, "pycuda.driver", make_pycuda(driver))
    monkeypatch.setattr("ctypes.CDLL", lambda name: driver)

    def open_it(name: str, *, is_spinning: bool = True) -> Cuda:
        if name == "ctypes":
            return Cuda(is_spinning=is_spinning, open_library=lambda name: driver)
        return open_cuda(name, is_spinning=is_spinning)

    return open_it


@pytest.mark.parametrize("kind", [CudaPython, PyCuda])
def test_every_library_has_the_methods_of_the_board_s(kind: type[Any]) -> None:
    public = [name for name in vars(Cuda) if not name.startswith("_")]
    assert len(public) > 12
    for name in public:
        wanted = list(inspect.signature(getattr(Cuda, name)).parameters)
        assert list(inspect.signature(getattr(kind, name)).parameters) == wanted, name


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("is_managed", [False, True])
def test_what_went_up_comes_down_and_all_is_given_back(
    open_named: Any, driver: FakeCuda, name: str, is_managed: bool
) -> None:
    with open_named(name) as cuda:
        stream, want = cuda.create_stream(), np.arange(6, dtype=np.float32).reshape(2, 3)
        address = cuda.allocate(want.nbytes, is_managed=is_managed)
        got = cuda.allocate_host(want)
        cuda.upload(address, want, stream)
        cuda.download(got, address, stream)
        cuda.synchronize(stream)
        np.testing.assert_array_equal(got, want)
        spare = cuda.allocate(8, is_managed=is_managed)
        cuda.free(spare)
        assert cuda.is_integrated
    assert driver.live == {}
    cuda.close()


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("is_spinning", [False, True])
def test_the_time_between_two_events_is_told(
    open_named: Any, driver: FakeCuda, name: str, is_spinning: bool
) -> None:
    with open_named(name, is_spinning=is_spinning) as cuda:
        stream, start, end = cuda.create_stream(), cuda.create_event(), cuda.create_event()
        cuda.record(start, stream)
        driver.tick()
        cuda.record(end, stream)
        cuda.make_wait(stream, end)
        cuda.wait(end)
        assert cuda.elapsed_ms(start, end) == 2.0
    assert driver.live == {}


@pytest.mark.parametrize("name", WITH_GRAPHS)
def test_a_graph_runs_when_it_is_launched(open_named: Any, driver: FakeCuda, name: str) -> None:
    done: list[int] = []
    with open_named(name) as cuda:
        stream = cuda.create_stream()
        graph = cuda.capture(stream, lambda: driver.work(lambda: done.append(1)))
        assert done == []
        cuda.launch(graph, stream)
        cuda.launch(graph, stream)
    assert done == [1, 1]
    assert driver.live == {}


@pytest.mark.parametrize("name", WITH_GRAPHS)
def test_a_capture_that_fails_is_ended(open_named: Any, driver: FakeCuda, name: str) -> None:
    def enqueue() -> None:
        raise RuntimeError("no")

    cuda = open_named(name)
    with pytest.raises(RuntimeError, match="no"):
        cuda.capture(cuda.create_stream(), enqueue)
    assert driver.called[-1] == "cuStreamEndCapture"


def test_pycuda_has_no_graphs_and_says_what_to_do(open_named: Any) -> None:
    with open_named("pycuda") as cuda, pytest.raises(DeviceError, match="no CUDA graphs") as caught:
        cuda.capture(cuda.create_stream(), lambda: None)
    assert "--no-cuda-graph" in caught.value.mend
    with open_named("pycuda") as cuda, pytest.raises(DeviceError, match="no CUDA graphs"):
        cuda.launch(1, cuda.create_stream())


def test_a_code_of_cuda_python_is_an_error_of_the_device(open_named: Any, driver: FakeCuda) -> None:
    with open_named("cuda-python") as cuda:
        driver.failing = {"cuMemAlloc_v2": 2}
        with pytest.raises(DeviceError, match="cuMemAlloc with error 2"):
            cuda.allocate(1)


@pytest.mark.parametrize("name", BACKENDS)
def test_clean_up_does_not_hide_the_fault_that_led_to_it(
    open_named: Any, driver: FakeCuda, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    def run(fault: Exception | None) -> None:
        driver.failing = {}
        with open_named(name) as cuda:
            cuda.allocate(8)
            driver.failing = {"cuMemFree_v2": 2}
            if name == "pycuda":
                broken = BrokenContext(sys.modules["pycuda.driver"].Error)
                monkeypatch.setattr(cuda, "_context", broken)
            if fault is not None:
                raise fault

    with pytest.raises(ValueError, match="the fault"):
        run(ValueError("the fault"))
    with pytest.raises(DeviceError, match=r"cuMemFree|pycuda"):
        run(None)


class BrokenContext:
    """A context of pycuda on a GPU that failed."""

    def __init__(self, error: type[Exception]) -> None:
        self._error = error

    def pop(self) -> None:
        raise self._error("cuCtxPopCurrent failed: an illegal memory access was encountered")


def test_what_pycuda_raises_is_an_error_of_the_device(
    open_named: Any, driver: FakeCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver.failing = {"cuMemAlloc_v2": 2}
    words = "pycuda with Error: cuMemAlloc failed: out of memory"
    with pytest.raises(DeviceError, match=words), open_named("pycuda") as cuda:
        cuda.allocate(1)
    module = sys.modules["pycuda.driver"]

    def fail() -> None:
        raise module.Error("cuInit failed: no CUDA-capable device is detected")

    monkeypatch.setattr(module, "init", fail)
    with pytest.raises(DeviceError, match="no CUDA-capable device"):
        open_named("pycuda")


def test_cuda_python_without_a_driver_is_an_error_of_the_device(
    monkeypatch: pytest.MonkeyPatch, driver: FakeCuda
) -> None:
    module: Any = make_cuda_bindings(driver)

    def missing(flags: int) -> None:
        raise RuntimeError("DynamicLibNotFoundError: libcuda.so.1")

    module.cuInit = missing
    monkeypatch.setitem(sys.modules, "cuda.bindings.driver", module)
    with pytest.raises(DeviceError, match="cuInit"):
        CudaPython()


@pytest.mark.parametrize("name", ["cuda-python", "pycuda"])
def test_a_library_that_is_absent_is_a_missing_dependency(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setitem(sys.modules, "cuda.bindings.driver", None)
    monkeypatch.setitem(sys.modules, "pycuda.driver", None)
    with pytest.raises(MissingDependencyError, match="pip install") as caught:
        open_cuda(name, is_spinning=True)
    assert f"--cuda {name}" in caught.value.why


def test_an_unknown_library_is_refused() -> None:
    with pytest.raises(InputError, match="known: ctypes, cuda-python, pycuda"):
        open_cuda("cupy", is_spinning=True)
