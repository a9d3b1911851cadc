"""Measure a step of synthesis by the number of threads and by how they wait, alone and beside other programs.

    python benchmarks/threads.py            # prints a table and keeps it in benchmarks/threads.json; a minute

Seconds are those of the clock. Each run is a process of its own, because a thread's way to wait is read at its start:
`OMP_WAIT_POLICY=passive` lets it sleep, without it torch's OpenMP lets it spin for a while. Beside means that one
program a core computes without end. Runs take turns, and the least of each counts.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from edgeq.core.files import read_json, write_json

RECORD = Path(__file__).with_suffix(".json")
MODEL = Path(__file__).parents[1] / "examples" / "digits" / "digits_bn.onnx"
STEPS = 16
ROUNDS = 2


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--step", action="store_true", help=argparse.SUPPRESS)
    if parser.parse_args().step:
        print(step_seconds())
        return
    cores = os.cpu_count() or 1
    ways: dict[str, tuple[int, str | None]] = {"1 thread": (1, None)}
    for policy in (None, "passive"):
        ways[f"{cores} threads, {policy or 'as they come'}"] = (cores, policy)
    found: dict[str, dict[str, float]] = {name: {} for name in ways}
    for place in ("alone", "beside"):
        with programs(cores if place == "beside" else 0):
            for _ in range(ROUNDS):
                for name, (count, policy) in ways.items():
                    seconds = run(count, policy)
                    found[name][place] = min(seconds, found[name].get(place, seconds))
    write_json(RECORD, {"cores": cores, "load": os.getloadavg()[0], "seconds": found})
    print("\n".join(section(read_json(RECORD))))


def section(record: dict[str, Any]) -> list[str]:
    """Return what was found, in Markdown."""
    lines = [
        f"| on {record['cores']} cores | ms a step alone | beside a program a core |",
        "|---|---|---|",
    ]
    for name, seconds in record["seconds"].items():
        lines.append(f"| {name} | {1000 * seconds['alone']:.0f} | {1000 * seconds['beside']:.0f} |")
    return lines


def run(threads: int, policy: str | None) -> float:
    """Return the seconds of a step in a process of its own."""
    setting = {"OMP_NUM_THREADS": str(threads)}
    if policy is not None:
        setting["OMP_WAIT_POLICY"] = policy
    kept = {key: text for key, text in os.environ.items() if not key.startswith("OMP_")}
    done = subprocess.run(
        [sys.executable, __file__, "--step"],
        env={**kept, **setting},
        capture_output=True,
        text=True,
        check=True,
    )
    return float(done.stdout)


@contextmanager
def programs(count: int) -> Iterator[None]:
    """Let `count` programs compute inside the block."""
    started = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for program in started:
            program.kill()
            program.wait()


def step_seconds() -> float:
    """Return the seconds of one step of synthesis."""
    from calib.synthesize import synthesize
    from edgeq.core.progress import NoProgress
    from edgeq.pipeline import make_options
    from edgeq.pipeline.job import prepare

    class Clock(NoProgress):
        """Notes when steps end."""

        def __init__(self) -> None:
            self.times: list[float] = []

        def advance(self, n: int = 1, **figures: float) -> None:
            self.times.append(time.monotonic())

    job = prepare(make_options(MODEL, target="cpu", bits="w4a4", preset="unit", out=Path("unused")))
    spec = dataclasses.replace(
        job.recipe.synthesis, samples=128, batch=128, iterations=STEPS, start="noise"
    )
    clock = Clock()
    synthesize(job.synthesis_problem(), spec, seed=0, progress=clock)
    return (clock.times[-1] - clock.times[STEPS // 4]) / (STEPS - 1 - STEPS // 4)


if __name__ == "__main__":
    main()
