"""Training and reconstruction hold as much memory for many samples as for few."""

from __future__ import annotations

import json
import subprocess
import sys
from math import prod
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "memory.py"


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="RssAnon is told by Linux")
def test_memory_does_not_grow_with_the_number_of_samples():
    done = subprocess.run([sys.executable, SCRIPT], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    few, many = found["peaks_mb"].values()
    samples_mb = 4096 * prod(found["shape"]) * 4 / 2**20
    assert many - few < samples_mb / 2
