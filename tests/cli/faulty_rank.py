"""A program for the test of torchrun: `edgeq`, whose second process ends in the second training step.

First argument: "killed" (as the system does when memory runs out) or "raises". The others are the words of `edgeq`.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

from edgeq.cli.app import main
from edgeq.core.errors import BuildError
from edgeq.quant import train


def fail_in(step: int, how: str) -> None:
    """Let training end in `step`."""
    whole = train._Loop.step
    done = []

    def part(self: Any, *args: Any, **kwargs: Any) -> dict[str, float]:
        done.append(1)
        if len(done) == step and how == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if len(done) == step:
            raise BuildError("a cosmic ray", why="it was seen by one", mend="wait")
        return whole(self, *args, **kwargs)

    train._Loop.step = part  # type: ignore[method-assign]


if __name__ == "__main__":
    if os.environ["RANK"] == "1":
        fail_in(2, sys.argv[1])
    del sys.argv[1]
    main()
