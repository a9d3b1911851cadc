"""The sidecar of an engine: where it came from, what built it and where it runs (deployment/tensorrt.md 4.6).

`engine.plan` gets `engine.plan.json` (this record) and `engine.plan.layers.json` (the inspector's own words) beside it.
The record holds the engine's SHA-256 and is written before it, so an engine and a record that do not belong together
show it.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import edgeq
from deploy.engine.driver import Device
from deploy.engine.inspector import Int8Report
from deploy.engine.model_facts import ModelFacts
from deploy.engine.request import EngineSpec
from edgeq.core.files import digest_file, write_bytes, write_json
from edgeq.core.serial import Spec
from edgeq.core.specs import TargetCard

L4T_RELEASE = Path("/etc/nv_tegra_release")
MANIFEST = "manifest.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class BuiltEngine:
    """What TensorRT made, not yet on disk.

    Attributes:
        plan: the engine.
        layers: the inspector's JSON.
        flags: names of the builder flags that were set.
        timing_cache_sha256: of the cache after the build.
        seconds: how long the build took.
        version: of TensorRT.
    """

    plan: bytes
    layers: str
    flags: tuple[str, ...]
    timing_cache_sha256: str
    seconds: float
    version: str


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
    record = out.with_name(f"{out.name}.json")
    write_bytes(out.with_name(f"{out.name}.layers.json"), built.layers.encode())
    write_json(
        record,
        {
            "schema": 1,
            "engine_sha256": hashlib.sha256(built.plan).hexdigest(),
            "edgeq_version": edgeq.__version__,
            "model_sha256": digest_file(model),
            "build": read_build(model),
            "graph_flavour": facts.flavour,
            "opset": facts.opset,
            "ir_version": facts.ir_version,
            "target": card.name,
            "l4t": read_l4t(),
            "tensorrt_version": built.version,
            "device": device.to_dict(),
            "request": spec.to_dict(),
            "builder_flags": list(built.flags),
            "timing_cache_sha256": built.timing_cache_sha256,
            "build_seconds": round(built.seconds, 2),
            "int8": int8.to_dict(),
        },
    )
    write_bytes(out, built.plan)
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
    except ValueError:  # other programs have files of that name, too
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


def read_l4t(path: Path = L4T_RELEASE) -> str | None:
    """Return the release of a Jetson's system, for instance "36.4.3"; None on other machines.

    The file begins with "# R36 (release), REVISION: 4.3".
    """
    if not path.is_file():
        return None
    words = path.read_text("ascii", "replace").replace(",", " ").split()
    if len(words) < 5 or words[1][:1] != "R" or words[3] != "REVISION:":
        return None
    return f"{words[1][1:]}.{words[4]}"
