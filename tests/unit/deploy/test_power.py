from __future__ import annotations

import time
from pathlib import Path

import pytest
from fake_trt.cuda import FakeCuda

from deploy.power import PowerMeter, read_nvidia_smi, read_tegrastats

# In the form of L4T 36 on Orin NX, AGX Orin, and of L4T 32 on the first Nano (tensorrt.md 5.4).
NX = (
    "11-20-2026 21:00:00 RAM 2448/15523MB (lfb 2x4MB) SWAP 0/7762MB (cached 0MB) CPU [12%@1984,off] "
    "EMC_FREQ 2%@3199 GR3D_FREQ 98%@[918] cpu@48.7C gpu@50.25C tj@51.1C "
    "VDD_IN 11234mW/9876mW VDD_CPU_GPU_CV 4400mW/4000mW VDD_SOC 2200mW/2100mW"
)
AGX = "GR3D_FREQ 99%@1300 gpu@45C VDD_GPU_SOC 8000mW/7000mW VDD_CPU_CV 2000mW/2000mW VIN_SYS_5V0 4500mW/4000mW"
XAVIER = (
    "RAM 2448/31919MB (lfb 4x4MB) CPU [12%@1190,off] EMC_FREQ 0% GR3D_FREQ 0% "
    "GPU 120/100 CPU 468/450 SOC 937/900 CV 0/0 VDDRQ 312/234 SYS5V 1458/1400"
)
THOR = "VDD_GPU 3561mW/3561mW VDD_CPU_SOC_MSS 7910mW/7910mW VIN_SYS_5V0 7620mW/7620mW VIN 26686mW/26686mW"
NANO = (
    "RAM 900/3964MB (lfb 5x4MB) IRAM 0/252kB(lfb 252kB) EMC_FREQ 3%@1600 GR3D_FREQ 40%@921 GPU@36C "
    "POM_5V_IN 3500/3200 POM_5V_GPU 800/700"
)


def test_the_rail_of_the_whole_module_is_taken_where_there_is_one() -> None:
    assert read_tegrastats(NX) == {
        "power_w": 11.234,
        "gpu_mhz": 918.0,
        "memory_mhz": 3199.0,
        "gpu_c": 50.25,
    }
    assert read_tegrastats(NANO)["power_w"] == 3.5
    assert read_tegrastats(NANO)["gpu_mhz"] == 921.0


def test_rails_are_added_where_none_is_of_the_whole() -> None:
    assert read_tegrastats(AGX) == {"power_w": 14.5, "gpu_mhz": 1300.0, "gpu_c": 45.0}


def test_every_rail_of_agx_xavier_counts() -> None:
    assert read_tegrastats(XAVIER) == {"power_w": pytest.approx(3.295)}


def test_the_rail_of_thor_s_whole_board_holds_the_others() -> None:
    assert read_tegrastats(THOR) == {"power_w": 26.686}


@pytest.mark.parametrize("line", ["", "tegrastats: permission denied", "RAM 2448/7620MB"])
def test_a_line_without_figures_gives_none(line: str) -> None:
    assert read_tegrastats(line) == {}


def test_what_nvidia_smi_does_not_report_is_left_out() -> None:
    assert read_nvidia_smi("[N/A], 1980, [Not Supported], 41") == {"gpu_mhz": 1980.0, "gpu_c": 41.0}
    assert read_nvidia_smi("Unable to determine the device handle") == {}


def _tool(folder: Path, name: str, *lines: str) -> None:
    script = folder / name
    body = "\n".join(f"echo '{line}'" for line in lines)
    script.write_text(f"#!/bin/sh\n{body}\nexec sleep 30\n")
    script.chmod(0o755)


def _wait_for_lines(meter: PowerMeter, count: int) -> None:
    end = time.monotonic() + 10
    while meter._output().read_text().count("\n") < count and time.monotonic() < end:
        time.sleep(0.01)


@pytest.fixture(autouse=True)
def no_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> None:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr("ctypes.CDLL", absent)


def test_the_summary_is_of_what_the_tool_wrote_meanwhile(tmp_path: Path) -> None:
    lines = ("20.00, 1500, 2619, 40", "60.00, 1980, 2619, 41", "80.00, 1980, 2619, 43")
    _tool(tmp_path, "nvidia-smi", *lines)
    with PowerMeter(folders=str(tmp_path)) as meter:
        _wait_for_lines(meter, 3)
    found = meter.summary(queries_per_s=1000)
    assert found == {
        "tool": "nvidia-smi",
        "gpu": "0 in the order of nvidia-smi",
        "readings": 3,
        "mean_power_w": 70.0,  # without the first, which is from before the work
        "energy_mj": 70.0,  # 70 W over 1000 queries a second
        "gpu_mhz_start": 1500.0,
        "gpu_mhz_end": 1980.0,
        "memory_mhz_start": 2619.0,
        "memory_mhz_end": 2619.0,
        "gpu_c_start": 40.0,
        "gpu_c_end": 43.0,
    }


@pytest.mark.parametrize(
    ("driver", "asked"),
    [(FakeCuda(), "0000:65:00.0"), (FakeCuda(devices=0), "0")],
)
def test_the_card_that_cuda_calls_the_first_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, driver: FakeCuda, asked: str
) -> None:
    script = tmp_path / "nvidia-smi"
    script.write_text(f'#!/bin/sh\necho "$*" > {tmp_path}/words\necho "60.00, 1500, 2619, 40"\n')
    script.chmod(0o755)
    monkeypatch.setattr("ctypes.CDLL", lambda name: driver)
    with PowerMeter(folders=str(tmp_path)) as meter:
        pass
    assert f"--id={asked}" in (tmp_path / "words").read_text().split()
    assert meter.summary(queries_per_s=1)["gpu"].startswith(asked)


def test_a_jetson_is_asked_by_its_own_tool(tmp_path: Path) -> None:
    _tool(tmp_path, "nvidia-smi", "60.00, 1500, 2619, 40")
    _tool(tmp_path, "tegrastats", NX)
    with PowerMeter(folders=str(tmp_path)) as meter:
        _wait_for_lines(meter, 1)
    found = meter.summary(queries_per_s=100)
    assert (found["tool"], found["mean_power_w"]) == ("tegrastats", 11.234)
    assert found["energy_mj"] == pytest.approx(112.34)


def test_a_tool_that_fails_claims_nothing(tmp_path: Path) -> None:
    script = tmp_path / "nvidia-smi"
    script.write_text("#!/bin/sh\nexit 9\n")
    script.chmod(0o755)
    with PowerMeter(folders=str(tmp_path)) as meter:
        pass
    found = meter.summary(queries_per_s=100)
    assert (found["tool"], found["readings"], found["mean_power_w"]) == ("nvidia-smi", 0, None)


@pytest.mark.parametrize("others", [(), ("nvidia-smi",)])
def test_a_tool_that_cannot_be_run_is_told_and_the_next_one_asked(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, others: tuple[str, ...]
) -> None:
    for name in others:
        _tool(tmp_path, name, "60.00, 1500, 2619, 40")
    script = tmp_path / "tegrastats"
    script.write_text("#!/nonexistent/interpreter\n")
    script.chmod(0o755)
    with PowerMeter(folders=str(tmp_path)) as meter:
        pass
    found = meter.summary(queries_per_s=100)
    wanted = (others[0], 1) if others else ("tegrastats", 0)
    assert (found["tool"], found["readings"]) == wanted
    assert f"{script} cannot be run" in caplog.text


def test_without_a_tool_nothing_is_claimed(tmp_path: Path) -> None:
    with PowerMeter(folders=str(tmp_path)) as meter:
        pass
    found = meter.summary(queries_per_s=100)
    assert (found["tool"], found["mean_power_w"], found["energy_mj"]) == (None, None, None)
