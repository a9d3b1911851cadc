"""Clocks, temperature and power while something runs, by tegrastats (Jetson) or nvidia-smi (other GPUs).

Entry: `PowerMeter`. The tool writes to a file, which is read when it has ended; a tool that is absent is said, and
nothing is guessed. Forms of the lines: deployment/tensorrt.md 5.4; not tried on a device by us.
"""

from __future__ import annotations

import ctypes
import logging
import re
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from deploy.board.driver import LIBRARY, call_driver
from edgeq.core.errors import DeviceError

INTERVAL_MS = 100
_START_S = 5.0  # what a tool may take to its first line
_BUS_ID_BYTES = 32
_QUERY = "--query-gpu=power.draw,clocks.sm,clocks.mem,temperature.gpu"
_COMMANDS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("tegrastats", ("--interval", str(INTERVAL_MS))),
    ("nvidia-smi", (_QUERY, "--format=csv,noheader,nounits", f"--loop-ms={INTERVAL_MS}")),
)
_RAIL = re.compile(r"\b([A-Z][A-Z0-9_]*) (\d+)(?:mW)?/(\d+)(?:mW)?")
_GPU_MHZ = re.compile(r"\bGR3D_FREQ \d+%@\[?(\d+)")
_EMC_MHZ = re.compile(r"\bEMC_FREQ \d+%@(\d+)")
_GPU_C = re.compile(r"\bgpu@(-?[\d.]+)C", re.IGNORECASE)
# The rail of the whole module or board where there is one (Nano, NX, Thor); else the sum of what is measured (AGX).
_WHOLE = ("VDD_IN", "POM_5V_IN", "VIN")
# Other words have a rail's form, too ("RAM 2448/7620MB"). AGX Xavier calls its rails after what they feed.
_RAIL_BEGINS = ("VDD", "VIN", "POM")
_XAVIER_RAILS = ("GPU", "CPU", "SOC", "CV", "SYS5V")

Reading = dict[str, float]
_log = logging.getLogger(__name__)


class PowerMeter:
    """Records while it is entered; `summary` tells afterwards.

    Args:
        folders: where the tools are looked for; None is PATH.
    """

    def __init__(self, *, folders: str | None = None) -> None:
        self._folders = folders
        self._process: subprocess.Popen[bytes] | None = None
        self._tool = ""
        self._gpu: str | None = None
        self._readings: list[Reading] = []
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    def __enter__(self) -> PowerMeter:
        for tool, arguments in _COMMANDS:
            program = shutil.which(tool, path=self._folders)
            if program is None:
                continue
            self._tool, self._gpu = tool, None
            if tool == "nvidia-smi":
                bus_id = find_first_gpu()
                self._gpu = bus_id or "0 in the order of nvidia-smi"
                arguments = (*arguments, f"--id={bus_id or 0}")
            self._folder = tempfile.TemporaryDirectory(prefix="edgeq-power-")
            try:
                with self._output().open("wb") as log:
                    self._process = subprocess.Popen(
                        [program, *arguments],
                        stdin=subprocess.DEVNULL,
                        stdout=log,
                        stderr=subprocess.DEVNULL,
                    )
            except OSError as error:  # of another processor, or its interpreter is missing
                _log.warning("%s cannot be run and tells no power: %s", program, error)
                self._folder.cleanup()
                continue
            self._wait_for_a_line()
            break
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._process is None or self._folder is None:
            return
        self._process.terminate()
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        read = read_tegrastats if self._tool == "tegrastats" else read_nvidia_smi
        lines = self._output().read_text("ascii", "replace").splitlines()
        self._readings = [item for line in lines if (item := read(line))]
        self._folder.cleanup()

    def summary(self, *, queries_per_s: float) -> dict[str, Any]:
        """Return mean power, energy a query, and clocks and temperature at start and end; what is not known is None.

        `gpu` is the card that nvidia-smi was asked about.

        Args:
            queries_per_s: throughput of what ran.
        """
        working = self._readings[1:] or self._readings  # the first is from before the work
        watts = [item["power_w"] for item in working if "power_w" in item]
        mean = sum(watts) / len(watts) if watts else None
        found: dict[str, Any] = {
            "tool": self._tool or None,
            "gpu": self._gpu,
            "readings": len(self._readings),
            "mean_power_w": mean,
            "energy_mj": None if mean is None or not queries_per_s else 1000 * mean / queries_per_s,
        }
        for key in ("gpu_mhz", "memory_mhz", "gpu_c"):
            values = [item[key] for item in self._readings if key in item]
            found[f"{key}_start"] = values[0] if values else None
            found[f"{key}_end"] = values[-1] if values else None
        return found

    def _wait_for_a_line(self) -> None:
        """Let the tool start: its first reading is that before the work."""
        end = time.monotonic() + _START_S
        while self._process is not None and self._process.poll() is None:
            if self._output().stat().st_size or time.monotonic() > end:
                return
            time.sleep(0.01)

    def _output(self) -> Path:
        assert self._folder is not None
        return Path(self._folder.name) / "log"


def read_tegrastats(line: str) -> Reading:
    """Return what a line of tegrastats tells: power in W, clocks in MHz, temperature in degrees Celsius.

    Example:
        >>> read_tegrastats("GR3D_FREQ 99%@[1007] gpu@54.5C VDD_IN 11234mW/9000mW")
        {'power_w': 11.234, 'gpu_mhz': 1007.0, 'gpu_c': 54.5}
    """
    rails = {
        name: int(now) / 1000
        for name, now, _ in _RAIL.findall(line)
        if name.startswith(_RAIL_BEGINS) or name in _XAVIER_RAILS
    }
    found: Reading = {}
    if rails:
        whole = next((rails[name] for name in _WHOLE if name in rails), None)
        found["power_w"] = sum(rails.values()) if whole is None else whole
    for key, pattern in (("gpu_mhz", _GPU_MHZ), ("memory_mhz", _EMC_MHZ), ("gpu_c", _GPU_C)):
        match = pattern.search(line)
        if match:
            found[key] = float(match[1])
    return found


def read_nvidia_smi(line: str) -> Reading:
    """Return what a line of nvidia-smi tells; a field that the GPU does not report is left out.

    Example:
        >>> read_nvidia_smi("71.32, 1980, 2619, 41")
        {'power_w': 71.32, 'gpu_mhz': 1980.0, 'memory_mhz': 2619.0, 'gpu_c': 41.0}
    """
    words = [word.strip() for word in line.split(",")]
    names = ("power_w", "gpu_mhz", "memory_mhz", "gpu_c")
    if len(words) != len(names):
        return {}
    return {
        name: float(word)
        for name, word in zip(names, words, strict=True)
        if re.fullmatch(r"-?\d+(\.\d+)?", word)
    }


def find_first_gpu() -> str | None:
    """Return the PCI bus id of the GPU that CUDA calls the first; None if its driver does not tell.

    nvidia-smi counts in an order of its own, and knows nothing of CUDA_VISIBLE_DEVICES.
    """
    device, bus_id = ctypes.c_int(), ctypes.create_string_buffer(_BUS_ID_BYTES)
    size = ctypes.c_int(_BUS_ID_BYTES)
    try:
        driver = ctypes.CDLL(LIBRARY)
        codes = (
            call_driver(driver, "cuInit", ctypes.c_uint(0)),
            call_driver(driver, "cuDeviceGet", ctypes.byref(device), ctypes.c_int(0)),
            call_driver(driver, "cuDeviceGetPCIBusId", bus_id, size, device),
        )
    except (OSError, DeviceError):
        return None
    return None if any(codes) else bus_id.value.decode("ascii")
