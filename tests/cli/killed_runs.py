"""A program for the resume test: runs one build again and again, each time until it is killed at another point.

Arguments: the words of `edgeq build` as JSON, and the points as JSON. Each run is a forked process that ends by
SIGKILL; what it left is printed as JSON, a record a point. Nothing of the product knows that it is tested: the runs are
killed by their listener, or when a finished temporary file is about to get its name.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from edgeq.cli.options import make_options
from edgeq.core import checkpoints
from edgeq.pipeline import BuildOptions, run_build


def die() -> None:
    """End this process as `kill -9` does."""
    os.kill(os.getpid(), signal.SIGKILL)


class Killer:
    """A listener that ends the process at `stage`, after `steps` steps (0: at its start)."""

    def __init__(self, stage: str, steps: int) -> None:
        self._wanted = stage
        self._left = steps
        self._stage = ""

    def start(self, stage: str, total: int, unit: str) -> None:
        self._stage = stage
        if stage == self._wanted and self._left == 0:
            die()

    def advance(self, n: int = 1, **figures: float) -> None:
        if self._stage == self._wanted:
            self._left -= n
            if self._left <= 0:
                die()

    def finish(self, summary: str) -> None:
        self._stage = ""


def kill_before_rename(name: str) -> None:
    """End the process when the file `name` is written and not yet renamed."""
    rename = Path.replace

    def replace(self: Path, target: Path) -> Path:
        if target.name == name:
            die()
        return rename(self, target)

    Path.replace = replace  # type: ignore[method-assign, assignment]


def run_until(point: dict[str, Any], options: BuildOptions) -> None:
    """Run the build up to `point`."""
    if "file" in point:
        kill_before_rename(point["file"])
    run_build(options, Killer(point.get("stage", ""), point.get("steps", 0)))


def describe(out: Path, status: int) -> dict[str, Any]:
    """Return how the run ended and what it left."""
    manifest = out / "manifest.json"
    hidden = [path.relative_to(out) for path in out.rglob(".*")]
    outermost = [path for path in hidden if not any(p.name[:1] == "." for p in path.parents)]
    return {
        "signal": os.WTERMSIG(status) if os.WIFSIGNALED(status) else None,
        "finished": list(json.loads(manifest.read_text())["stages"]) if manifest.exists() else None,
        "parts": sorted(path.name for path in outermost),
        "checkpoints": sorted(path.stem for path in out.glob("checkpoints/[!.]*")),
    }


def main() -> None:
    """Fork a run for each point."""
    checkpoints.EVERY_S = 0.0  # after every step
    words, points = json.loads(sys.argv[1]), json.loads(sys.argv[2])
    paths = {key: Path(words.pop(key)) for key in ("model", "out", "eval_path")}
    options = make_options(**paths, **words)
    records = []
    for point in points:
        child = os.fork()
        if child == 0:
            run_until(point, options)
            os._exit(0)
        records.append(describe(options.out, os.waitpid(child, 0)[1]))
    sys.stdout.write(json.dumps(records))


if __name__ == "__main__":
    main()
