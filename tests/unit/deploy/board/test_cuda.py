from __future__ import annotations

import numpy as np
import pytest
from fake_trt.cuda import FakeCuda

from deploy.board.cuda import Cuda
from edgeq.core.errors import DeviceError


@pytest.fixture
def driver() -> FakeCuda:
    return FakeCuda()


@pytest.fixture
def cuda(driver: FakeCuda) -> Cuda:
    return Cuda(open_library=lambda name: driver)


def test_what_went_up_comes_down(cuda: Cuda) -> None:
    stream, want = cuda.create_stream(), np.arange(6, dtype=np.float32).reshape(2, 3)
    address, got = cuda.allocate(want.nbytes), cuda.allocate_host(want)
    cuda.upload(address, want, stream)
    cuda.download(got, address, stream)
    cuda.synchronize(stream)
    np.testing.assert_array_equal(got, want)
    assert got.shape == (2, 3)


@pytest.mark.parametrize("is_managed", [False, True])
def test_everything_is_given_back(driver: FakeCuda, is_managed: bool) -> None:
    with Cuda(open_library=lambda name: driver) as cuda:
        cuda.allocate(8, is_managed=is_managed)
        cuda.allocate_host(np.zeros(2))
        stream = cuda.create_stream()
        cuda.create_event()
        cuda.capture(stream, lambda: None)
        assert len(driver.live) == 6
    assert driver.live == {}
    cuda.close()


def test_a_graph_runs_when_it_is_launched(cuda: Cuda, driver: FakeCuda) -> None:
    stream, done = cuda.create_stream(), []
    graph = cuda.capture(stream, lambda: driver.work(lambda: done.append(1)))
    assert done == []
    cuda.launch(graph, stream)
    cuda.launch(graph, stream)
    assert done == [1, 1]


def test_a_capture_that_fails_is_ended(cuda: Cuda, driver: FakeCuda) -> None:
    def enqueue() -> None:
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        cuda.capture(cuda.create_stream(), enqueue)
    assert driver.called[-1] == "cuStreamEndCapture"


def test_the_time_between_two_events_is_told(cuda: Cuda, driver: FakeCuda) -> None:
    stream, start, end = cuda.create_stream(), cuda.create_event(), cuda.create_event()
    cuda.record(start, stream)
    driver.tick()
    cuda.record(end, stream)
    cuda.wait(end)
    assert cuda.elapsed_ms(start, end) == 2.0


def test_an_integrated_gpu_is_recognised(cuda: Cuda) -> None:
    assert cuda.is_integrated


def test_a_code_of_the_driver_is_told_in_words() -> None:
    driver = FakeCuda(failing={"cuMemAlloc_v2": 2})
    with pytest.raises(DeviceError, match=r"cuMemAlloc_v2 with error 2 \(out of memory\)"):
        Cuda(open_library=lambda name: driver).allocate(1)


def test_a_missing_driver_is_a_device_error() -> None:
    def missing(name: str) -> None:
        raise OSError(f"{name}: cannot open shared object file")

    with pytest.raises(DeviceError, match="no NVIDIA driver"):
        Cuda(open_library=missing)
