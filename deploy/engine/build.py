"""Builds an engine from a Q/DQ file on the machine that will run it, and says what really runs in INT8.

Main entry: `build_engine`. The order matters: the driver is asked first, then the target card is compared with what is
there, and only then does `deploy.board.builder` make a TensorRT object.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from deploy.board.builder import run_builder
from deploy.board.driver import Device, probe_driver
from deploy.board.inspector import Int8Report, judge_int8, read_layers
from deploy.board.releases import SUPPORTED, choose_dialect
from deploy.board.request import BuildRequest
from deploy.engine.model_facts import read_facts
from deploy.engine.record import EngineResult, write_engine
from deploy.engine.request import EngineSpec, fit_shapes
from deploy.trtexec import tensorrt_version
from edgeq.core.errors import TargetError
from edgeq.core.optional import require, version_numbers
from edgeq.core.progress import NoProgress, Progress
from edgeq.core.specs import TargetCard

_log = logging.getLogger(__name__)


def build_engine(
    model: Path,
    card: TargetCard,
    *,
    out: Path,
    spec: EngineSpec | None = None,
    timing_cache: Path | None = None,
    progress: Progress | None = None,
    probe: Callable[[], Device] = probe_driver,
) -> EngineResult:
    """Build an engine and write it to `out` with its record and its layers beside it.

    Args:
        model: a Q/DQ file made for `card`.
        card: the target; it must be this machine.
        out: the engine.
        spec: how to build it.
        timing_cache: read if it is there, written after the build.
        progress: who hears of it.
        probe: finds the GPU.

    Raises:
        DeviceError: if there is no GPU or no driver, or TensorRT does not start on it.
        MissingDependencyError: if TensorRT is not installed.
        TargetError: if this machine is not the target, or cannot do what was asked.
        ModelError: if TensorRT cannot parse the file; every error has its node.
        InputError: if shapes or timing cache do not fit, or nothing can be written.
        BuildError: if TensorRT builds nothing.
    """
    spec, progress = spec or EngineSpec(), progress or NoProgress()
    _require_int8(card)
    facts = read_facts(model)
    device = probe()
    trt = require("tensorrt", SUPPORTED, why="to build an engine", install=_install(card))
    _require_target(card, device, str(trt.__version__))
    request = BuildRequest(
        model=model,
        names=facts.names,
        meant=facts.meant,
        is_weak=card.weak_typing and facts.flavour != "fp16-typed",
        workspace_mib=spec.workspace_mib,
        timing_cache=timing_cache,
        is_version_compatible=spec.is_version_compatible,
        hardware=spec.hardware,
    )
    built = run_builder(
        trt,
        choose_dialect(trt),
        request,
        fit=lambda inputs: fit_shapes(inputs, spec.shapes),
        progress=progress,
    )
    int8 = judge_int8(read_layers(built.layers), facts.meant)
    _warn(int8)
    return write_engine(
        out, built, model=model, facts=facts, card=card, spec=spec, device=device, int8=int8
    )


def _require_int8(card: TargetCard) -> None:
    tensorrt_version(card)
    if not card.has_int8:
        raise TargetError(
            f"{card.title} has no INT8 arithmetic",
            why="a Q/DQ model cannot become an engine there",
            mend="choose another target: `edgeq targets` lists them",
        )


def _install(card: TargetCard) -> str:
    if "JetPack" in card.stack:
        return (
            "sudo apt-get install python3-libnvinfer  (it comes with JetPack; a virtual environment sees it "
            "with --system-site-packages)"
        )
    major, minor = tensorrt_version(card)[:2]
    return f"pip install 'tensorrt=={major}.{minor}.*'"


def _require_target(card: TargetCard, device: Device, version: str) -> None:
    """Check that this machine is the target; all that differs is said at once."""
    found = []
    if version_numbers(version)[:2] != tensorrt_version(card)[:2]:
        found.append(f"TensorRT is {version}, the card has {card.runtime_version}")
    if card.compute_capability not in ("", device.compute_capability):
        found.append(
            f"{device.name} has compute capability {device.compute_capability}, "
            f"the card has {card.compute_capability}"
        )
    if found:
        raise TargetError(
            f"this machine is not {card.name}: {'; '.join(found)}",
            why="an engine runs on the GPU and the TensorRT that built it, and the Q/DQ model has its parser's form",
            mend="pass the --target that this machine is (`edgeq targets`), with a model built for it",
        )


def _warn(int8: Int8Report) -> None:
    for line in int8.missed:
        _log.warning("meant to run in INT8 and does not: %s", line)
    for line in int8.unknown:
        _log.warning("meant to run in INT8, and the engine does not tell whether it does: %s", line)
