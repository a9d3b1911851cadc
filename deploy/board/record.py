"""The sidecar of an engine: where it came from, what built it and where it runs (deployment/tensorrt.md 4.6).

`engine.plan` gets `engine.plan.json` (this record) and `engine.plan.layers.json` (the inspector's own words) beside it.
The record holds the engine's SHA-256 and is written before it, so an engine and a record that do not belong together
show it.
"""

import hashlib
import json
from pathlib import Path
from typing import Any, Dict, Mapping, Optional

import edgeq
from deploy.board.builder import BuiltEngine
from deploy.board.driver import Device
from deploy.board.facts import read_l4t
from deploy.board.inspector import Int8Report
from deploy.board.loading import Loading
from edgeq.core.files import digest_file, write_bytes, write_json


def write_engine_files(
    out: Path,
    built: BuiltEngine,
    *,
    device: Device,
    int8: Int8Report,
    origin: Mapping[str, Any],
) -> Path:
    """Write the engine, its record and its layers to `out` and beside it, each whole or not at all; return the record.

    Args:
        out: the engine.
        built: what TensorRT made.
        device: on which.
        int8: what became of the layers that were meant to run in INT8.
        origin: what else the record shall hold: of which model, for which target, as asked by whom.

    Raises:
        InputError: if they cannot be written.
    """
    record = record_of(out)
    write_bytes(out.with_name(f"{out.name}.layers.json"), built.layers.encode())
    write_json(
        record,
        dict(
            origin,
            schema=1,
            engine_sha256=hashlib.sha256(built.plan).hexdigest(),
            edgeq_version=edgeq.__version__,
            l4t=read_l4t(),
            tensorrt_version=built.version,
            device=device._asdict(),
            builder_flags=list(built.flags),
            timing_cache_sha256=built.timing_cache_sha256,
            build_seconds=round(built.seconds, 2),
            int8=int8._asdict(),
        ),
    )
    write_bytes(out, built.plan)
    return record


def record_of(engine: Path) -> Path:
    """Return where the record of an engine lies."""
    return engine.with_name(f"{engine.name}.json")


def read_record(engine: Path) -> Optional[Dict[str, Any]]:
    """Return the record of an engine; None if there is no engine, no record, or one of another engine."""
    try:
        data = json.loads(record_of(engine).read_text("utf-8"))
        is_whole = isinstance(data, dict) and data.get("engine_sha256") == digest_file(engine)
    except (OSError, ValueError):  # a run that was cut off left one without the other
        return None
    return data if is_whole else None


def read_loading(engine: Path) -> Loading:
    """Return how the record of an engine says that it was built; as for the GPU alone if it has none."""
    request = (read_record(engine) or {}).get("request")
    if not isinstance(request, dict):
        return Loading()
    core = request.get("dla_core")
    return Loading(
        dla_core=core if isinstance(core, int) else None,
        is_version_compatible=bool(request.get("is_version_compatible")),
    )
