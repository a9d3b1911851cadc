"""One voice for the processes that torchrun starts: rank 0 speaks, the others only where they alone fail."""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path

from edgeq.core.errors import EdgeqError

# Seconds in which the launcher ends a process whose fault rank 0 has, too: a wrong word, a file that is missing.
MERCY_S = 10.0


@contextlib.contextmanager
def one_voice() -> Iterator[None]:
    """Hold back what a process beside rank 0 says inside the block; where it fails, and is let live, say it then."""
    rank = int(os.environ.get("RANK", "0")) if "TORCHELASTIC_RUN_ID" in os.environ else 0
    if rank == 0:
        yield
        return
    said, failed = io.StringIO(), False
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(said):
            yield
    except SystemExit as end:
        failed = end.code not in (0, None)
        raise
    finally:
        if failed:
            time.sleep(MERCY_S)
            sys.stderr.write(f"rank {rank}: {said.getvalue()}")


def record(error: BaseException) -> None:
    """Give torchrun the reason why this process ends, for its own summary; nothing happens without torchrun."""
    path = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if path is None:
        return
    is_ours = not isinstance(error, EdgeqError)
    shown = "".join(traceback.format_exception(error)) if is_ours else str(error)
    reason = {
        "message": f"{type(error).__name__}: {error}",
        "extraInfo": {"py_callstack": shown, "timestamp": str(int(time.time()))},
    }
    Path(path).write_text(json.dumps({"message": reason}), "utf-8")
