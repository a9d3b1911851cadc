"""`python3 -m deploy.board`, which build.sh calls in the folder of a bundle: messages, exit codes, the report."""

import argparse
import logging
import math
import sys
from pathlib import Path
from typing import List, Optional

from deploy.board.dla import DEVICES
from deploy.board.run import REPORT, RunOptions, failed_outputs, run_bundle
from deploy.board.timing import TimingSpec, trtexec_defaults
from edgeq.core.errors import INTERRUPTED, EdgeqError, GateFailed, InputError


def main(arguments: Optional[List[str]] = None) -> int:
    """Return the exit code: 0 passed, 7 wrong outputs, 130 for an interrupt, else that of the error."""
    options = _parse(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    try:
        _require_times(options)
        report = run_bundle(Path(), options=options, say=say, progress=Lines())
    except EdgeqError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return INTERRUPTED
    say(f"report: {REPORT}")
    return GateFailed.exit_code if failed_outputs(report) else 0


def _require_times(options: RunOptions) -> None:
    times = {
        "--warm-up-ms": options.timing.warm_up_ms,
        "--duration-s": options.timing.duration_s,
    }
    for option, value in times.items():
        if not math.isfinite(value) or value < 0:
            raise InputError(
                f"{option} {value:g} is no time",
                why="a time is 0 or more and finite; with another one timing fails, or never ends",
                mend=f"pass for instance {option} 3, or leave it out",
            )


def say(text: str) -> None:
    """Write one line at once, so that who watches over SSH sees it."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


class Lines:
    """Progress as a line every ten per cent."""

    def __init__(self) -> None:
        self._stage, self._done, self._total, self._said = "", 0, 1, 0

    def start(self, stage: str, total: int, unit: str) -> None:
        """Open a stage."""
        self._stage, self._done, self._total, self._said = stage, 0, max(total, 1), 0
        say(f"{stage} ...")

    def advance(self, n: int = 1, **figures: float) -> None:
        """Count steps."""
        self._done += n
        tens = 10 * self._done // self._total
        if tens > self._said:
            self._said = tens
            say(f"{self._stage}: {10 * tens} %")

    def finish(self, summary: str) -> None:
        """Close the stage."""
        say(f"{self._stage}: {summary}")


def _parse(arguments: Optional[List[str]]) -> RunOptions:
    parser = argparse.ArgumentParser(
        prog="build.sh",
        description="Build the engine, compare it with the float network, time it, write device_report.json.",
    )
    defaults = TimingSpec()
    parser.add_argument("--rebuild", action="store_true", help="build even if the engine is there")
    parser.add_argument(
        "--device",
        choices=DEVICES,
        help="for which the engine is built; dla0 for a bundle of edgeq build --dla, else gpu",
    )
    parser.add_argument(
        "--warm-up-ms", type=float, default=defaults.warm_up_ms, help="not counted (%(default)s)"
    )
    parser.add_argument(
        "--duration-s", type=float, default=defaults.duration_s, help="of timing (%(default)s)"
    )
    parser.add_argument(
        "--trtexec-defaults",
        type=int,
        choices=(10, 11),
        default=11,
        help="11: no transfers, spin wait, CUDA graph; 10: the other way round (%(default)s)",
    )
    words = parser.parse_args(arguments)
    timing = trtexec_defaults(words.trtexec_defaults)
    timing = timing._replace(warm_up_ms=words.warm_up_ms, duration_s=words.duration_s)
    return RunOptions(timing=timing, is_rebuild=words.rebuild, device=words.device)


if __name__ == "__main__":
    sys.exit(main())
