"""What the board says of itself: files and tools of NVIDIA's Jetson system, each read where it is there.

Names of files and tools are from NVIDIA's documentation and jetson_stats (deployment/tensorrt.md 5.4); not tried on a
board. A fact that cannot be read is None and never guessed.
"""

import platform
import subprocess
from pathlib import Path
from typing import Any, Dict, List, Optional

L4T_RELEASE = Path("/etc/nv_tegra_release")
DEVFREQ = Path("/sys/class/devfreq")
THERMAL = Path("/sys/class/thermal")
MODEL = Path("/proc/device-tree/model")


def read_facts() -> Dict[str, Any]:
    """Return what is known of system, power mode, clocks (MHz) and temperatures (degrees Celsius) now."""
    return {
        "machine": platform.machine(),
        "python": platform.python_version(),
        "board": _read_text(MODEL),
        "l4t": read_l4t(),
        "jetpack": _ask("dpkg-query", "--show", "--showformat=${Version}", "nvidia-jetpack"),
        "nvpmodel": _ask("nvpmodel", "-q"),
        "gpu_clocks": read_gpu_clocks(),
        "temperatures_c": read_temperatures(),
    }


def read_l4t(path: Path = L4T_RELEASE) -> Optional[str]:
    """Return the release of a Jetson's system, for instance "36.4.3"; None on other machines.

    The file begins with "# R36 (release), REVISION: 4.3".
    """
    if not path.is_file():
        return None
    words = path.read_text("ascii", "replace").replace(",", " ").split()
    if len(words) < 5 or words[1][:1] != "R" or words[3] != "REVISION:":
        return None
    return f"{words[1][1:]}.{words[4]}"


def read_gpu_clocks(folder: Path = DEVFREQ) -> Optional[Dict[str, Any]]:
    """Return the GPU's clock, its limits, and whether they hold it in place; None where the kernel does not tell.

    The device is called after its chip: gv11b on Xavier, ga10b on Orin, or "gpu".
    """
    for path in sorted(folder.glob("*")):
        if any(word in path.name for word in ("gv11b", "ga10b", "gp10b", "gpu")):
            now, low, high = (_read_hz(path / f"{name}_freq") for name in ("cur", "min", "max"))
            if now is not None and low is not None and high is not None:
                return {"now": now, "min": low, "max": high, "is_fixed": low == high}
    return None


def read_temperatures(folder: Path = THERMAL) -> Dict[str, float]:
    """Return the temperature of every zone that tells one."""
    found = {}
    for path in sorted(folder.glob("thermal_zone*")):
        name, value = _read_text(path / "type"), _read_text(path / "temp")
        if name and value and value.lstrip("-").isdigit():
            found[name] = int(value) / 1000
    return found


def _read_hz(path: Path) -> Optional[float]:
    text = _read_text(path)
    return int(text) / 1e6 if text is not None and text.isdigit() else None


def _read_text(path: Path) -> Optional[str]:
    try:
        return path.read_text("utf-8", "replace").strip("\0 \n") or None
    except OSError:  # absent, or a sensor that is switched off
        return None


def _ask(*command: str) -> Optional[str]:
    """Return the one line that a tool answers; None if it is absent or fails."""
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            universal_newlines=True,  # noqa: UP021 - its newer name came with Python 3.7
            timeout=10,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    lines: List[str] = done.stdout.split("\n")
    text = " ".join(line.strip() for line in lines if line.strip())
    return text if done.returncode == 0 and text else None
