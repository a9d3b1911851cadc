from __future__ import annotations

import ctypes
from typing import Any

import pytest
from fake_trt.cuda import FakeCuda

from deploy.board.driver import probe_driver
from edgeq.core.errors import DeviceError


def test_the_first_device_is_described() -> None:
    device = probe_driver(lambda name: FakeCuda())
    assert (device.name, device.compute_capability) == ("Orin (nvgpu)", "8.7")
    assert device.cuda_version == "12.6"


def test_the_driver_is_started_before_it_is_asked() -> None:
    driver = FakeCuda()
    probe_driver(lambda name: driver)
    assert driver.called[:2] == ["cuInit", "cuDeviceGetCount"]


def test_a_missing_library_is_a_device_error_with_a_way_out() -> None:
    def missing(name: str) -> Any:
        raise OSError(f"{name}: cannot open shared object file")

    with pytest.raises(DeviceError, match=r"libcuda\.so\.1: cannot open") as caught:
        probe_driver(missing)
    assert "./build.sh" in caught.value.mend


@pytest.mark.parametrize("function", ["cuInit", "cuDeviceGetCount", "cuDeviceGetAttribute"])
def test_a_code_of_the_driver_is_told(function: str) -> None:
    with pytest.raises(DeviceError, match=f"answers {function} with error 100"):
        probe_driver(lambda name: FakeCuda(failing={function: 100}))


def test_no_device_is_a_device_error() -> None:
    with pytest.raises(DeviceError, match="shows no device"):
        probe_driver(lambda name: FakeCuda(devices=0))


def test_the_real_driver_is_found_or_missed_without_ending_the_process() -> None:
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        with pytest.raises(DeviceError, match="no NVIDIA driver"):
            probe_driver()
    else:
        assert "." in probe_driver().compute_capability
