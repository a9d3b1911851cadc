"""What the board says of itself: files and tools of NVIDIA's Jetson system, each read where it is there."""

from pathlib import Path
from typing import Optional

L4T_RELEASE = Path("/etc/nv_tegra_release")


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
