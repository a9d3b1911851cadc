from __future__ import annotations

import ctypes
from typing import Any

import pytest

from deploy.board.driver import probe_driver
from edgeq.core.errors import DeviceError


class Driver:
    """Plays libcuda: functions write to the places they are given and return a code."""

    def __init__(self, *, devices: int = 1, failing: str = "") -> None:
        self.devices = devices
        self.failing = failing
        self.called: list[str] = []

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any) -> int:
            self.called.append(name)
            if name == self.failing:
                return 100
            if name == "cuDeviceGetCount":
                arguments[0]._obj.value = self.devices
            elif name == "cuDeviceGetName":
                arguments[0].value = b"Orin (nvgpu)"
            elif name == "cuDeviceGetAttribute":
                arguments[0]._obj.value = {75: 8, 76: 7}[arguments[1].value]
            elif name == "cuDriverGetVersion":
                arguments[0]._obj.value = 12060
            return 0

        return call


def test_the_first_device_is_described() -> None:
    device = probe_driver(lambda name: Driver())
    assert (device.name, device.compute_capability) == ("Orin (nvgpu)", "8.7")
    assert device.cuda_version == "12.6"


def test_the_driver_is_started_before_it_is_asked() -> None:
    driver = Driver()
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
        probe_driver(lambda name: Driver(failing=function))


def test_no_device_is_a_device_error() -> None:
    with pytest.raises(DeviceError, match="shows no device"):
        probe_driver(lambda name: Driver(devices=0))


def test_the_real_driver_is_found_or_missed_without_ending_the_process() -> None:
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        with pytest.raises(DeviceError, match="no NVIDIA driver"):
            probe_driver()
    else:
        assert "." in probe_driver().compute_capability
