"""What the host knows of an engine that it built, and the result that it shows."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploy.board.builder import BuiltEngine
from deploy.board.driver import Device
from deploy.board.inspector import Int8Report
from deploy.board.record import write_engine_files
from deploy.engine.model_facts import ModelFacts
from deploy.engine.request import EngineSpec
from edgeq.core.files import digest_file
from edgeq.core.serial import Spec
from edgeq.core.specs import TargetCard

MANIFEST = "manifest.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineResult(Spec):
    """What was written.

    Attributes:
        path: the engine.
        record: the sidecar.
        size_bytes: of the engine.
        seconds: how long the build took.
        tensorrt_version: that built it.
        device: on which it was built.
        int8: what became of the layers that were meant to run in INT8.
    """

    path: str
    record: str
    size_bytes: int
    seconds: float
    tensorrt_version: str
    device: Device
    int8: Int8Report


def write_engine(
    out: Path,
    built: BuiltEngine,
    *,
    model: Path,
    facts: ModelFacts,
    card: TargetCard,
    spec: EngineSpec,
    device: Device,
    int8: Int8Report,
) -> EngineResult:
    """Write the engine, its record and its layers to `out` and beside it, each whole or not at all.

    Raises:
        InputError: if they cannot be written.
    """
    record = write_engine_files(
        out,
        built,
        device=device,
        int8=int8,
        origin={
            "model_sha256": digest_file(model),
            "build": read_build(model),
            "graph_flavour": facts.flavour,
            "opset": facts.opset,
            "ir_version": facts.ir_version,
            "target": card.name,
            "request": spec.to_dict(),
        },
    )
    return EngineResult(
        path=str(out),
        record=str(record),
        size_bytes=len(built.plan),
        seconds=round(built.seconds, 2),
        tensorrt_version=built.version,
        device=device,
        int8=int8,
    )


def read_build(model: Path) -> dict[str, Any] | None:
    """Return how the Q/DQ model was made, from the manifest beside it; None without one of this very file."""
    manifest = model.with_name(MANIFEST)
    if not manifest.is_file():
        return None
    try:
        data = json.loads(manifest.read_text("utf-8"))
    except (ValueError, RecursionError):  # other programs have files of that name, too
        return None
    stages = data.get("stages") if isinstance(data, dict) else None
    if not isinstance(stages, dict):
        return None
    digests = {
        stage["files"].get(model.name)
        for stage in stages.values()
        if isinstance(stage, dict) and isinstance(stage.get("files"), dict)
    }
    build = data.get("build")
    return build if digest_file(model) in digests and isinstance(build, dict) else None
