"""Write the bundle: the folder that a device needs to build, check and time the engine.

The folder appears whole or not at all, holds no path of the host, and has the same bytes for the same inputs.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

import edgeq
from deploy.board.request import WORKSPACE_MIB
from deploy.board_files import ROOT, board_files
from deploy.bundle_texts import (
    ENGINE,
    INPUTS,
    LOADER,
    LOADER_TEXT,
    OUTPUTS,
    QDQ_MODEL,
    build_script,
    check_script,
    readme,
    run_script,
    trtexec_lines,
)
from deploy.calibration_cache import CACHE
from deploy.dla import DLA_MODEL, DLA_README
from deploy.engine.model_facts import describe
from deploy.onnxrt import Array, Session
from deploy.polygraphy_data import inputs_json, outputs_json
from deploy.probes import write_probes
from deploy.sealed import SUMS
from deploy.trtexec import BatchRange, timing_line, trtexec_line
from edgeq.core.errors import CalibError, EdgeqBug, InputError
from edgeq.core.files import digest_file, write_bytes, write_json
from edgeq.core.samples import SampleSet
from edgeq.core.serial import Spec
from edgeq.core.specs import GraphFlavour, InputSpec, TargetCard

RECORD = "bundle.json"

# An engine differs from ONNX Runtime by codes at ties and by its FP16 remainder: twice what quantization itself does
# leaves room for the first, FP16's resolution (2^-11, doubled) of the largest output for the second.
_QUANTIZATION_GAIN = 2.0
_HALF_RESOLUTION = 2.0**-10


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleResult(Spec):
    """What was written.

    Attributes:
        files: names, sorted.
        iterations: calls of the model in inputs.json.
        tolerances: by output, the largest absolute difference from the teacher that the bundle's check allows; None
            for one that is no float, which is told and not judged.
    """

    files: tuple[str, ...]
    iterations: int
    tolerances: dict[str, float | None]


def write_bundle(
    folder: Path,
    *,
    qdq_model: onnx.ModelProto,
    teacher_model: onnx.ModelProto,
    card: TargetCard,
    samples: SampleSet,
    inputs: Sequence[InputSpec],
    provenance: Mapping[str, Any],
    batch: BatchRange | None = None,
    count: int = 16,
    extra: Mapping[str, bytes] | None = None,
) -> BundleResult:
    """Write the bundle to `folder`, in place of an earlier bundle of that name.

    Args:
        folder: where it appears.
        qdq_model: the model that ships.
        teacher_model: the float model; its outputs are what the target is compared with.
        card: the target.
        samples: the first `count` go into the bundle, one a call (or the smallest batch that the file or engine takes).
        inputs: of the model.
        provenance: source model hash, bits, recipe and the like; JSON values, no paths of the host.
        batch: batch sizes of the engine of a dynamic model.
        count: how many samples.
        extra: more files, by name; scripts end in ".sh".

    Raises:
        InputError: if `folder` holds something else, or cannot be written; nothing is left behind.
        CalibError: if the sample set is empty.
        TargetError: if the target cannot run a Q/DQ model.
    """
    _require_portable(provenance)
    teacher, student = Session(teacher_model), Session(qdq_model)
    has_batch = inputs[0].batch != 0
    size = (has_batch and teacher.batch) or (batch.min if batch else 1)
    feeds = _choose_feeds(samples, size, count)
    if not has_batch:
        feeds = [{name: x[0] for name, x in feed.items()} for feed in feeds]
    references = [teacher.run(feed) for feed in feeds]
    tolerances = _measure_tolerances(references, [student.run(feed) for feed in feeds])
    commands = _engine_commands(card, inputs, batch) if card.runtime == "tensorrt" else {}
    texts = _make_texts(card, commands, samples=len(feeds), tolerances=tolerances)
    record = _describe(qdq_model, card, provenance) | {
        "trtexec": commands,
        "samples": len(feeds) * size,
        "tolerances": tolerances,
    }
    if card.runtime == "tensorrt":
        record["engine"] = _engine_request(qdq_model, card, inputs, batch or BatchRange())
        if extra and DLA_MODEL in extra:
            names = describe(onnx.load_from_string(extra[DLA_MODEL])).names
            record["engine"]["dla"] = {"model": DLA_MODEL, "cache": CACHE, "names": list(names)}
            texts["README.txt"] += DLA_README
    with _whole_folder(folder) as part:
        write_bytes(part / QDQ_MODEL, qdq_model.SerializeToString(deterministic=True))
        write_bytes(part / INPUTS, inputs_json(feeds))
        write_bytes(part / OUTPUTS, outputs_json(references, runner="teacher"))
        if card.runtime == "tensorrt":
            write_probes(part / "probes", card)
        own = {name: text.encode() for name, text in texts.items()}
        for name, data in {**own, **(extra or {})}.items():
            write_bytes(part / name, data)
        write_json(part / RECORD, record)
        _seal(part)
        files = tuple(sorted(_names(part)))
    return BundleResult(files=files, iterations=len(feeds), tolerances=tolerances)


def _make_texts(
    card: TargetCard,
    commands: Mapping[str, Sequence[str]],
    *,
    samples: int,
    tolerances: Mapping[str, float | None],
) -> dict[str, str]:
    """Return scripts, README and the program of the board, by name."""
    texts = {
        "README.txt": readme(card, samples=samples, tolerances=tolerances),
        LOADER: LOADER_TEXT,
    }
    if card.runtime != "tensorrt":
        return texts | {"run.sh": run_script(card, tolerances=tolerances)}
    texts |= {"build.sh": build_script(card), "device_check.sh": check_script(card)}
    texts["README.txt"] += trtexec_lines(commands)
    return texts | {name: (ROOT / name).read_text("utf-8") for name in board_files()}


def _choose_feeds(samples: SampleSet, batch: int, count: int) -> list[dict[str, Array]]:
    """Return the calls: {input name: [batch, ...]}; a set smaller than a fixed batch is repeated."""
    if not len(samples):
        raise CalibError(
            "the sample set is empty",
            why="the bundle carries samples to check the engine with",
            mend="make one with `edgeq synth`",
        )
    calls = max(1, min(count, len(samples)) // batch)
    chosen = np.arange(calls * batch) % len(samples)
    return [samples.feed(pick) for pick in np.split(chosen, calls)]


def _measure_tolerances(
    references: Sequence[Mapping[str, Array]], measured: Sequence[Mapping[str, Array]]
) -> dict[str, float | None]:
    """Return a tolerance for each float output, and None for the others.

    What an ArgMax, a TopK or a comparison gives is equal or not, however far apart two class numbers are; and one that
    differs may stand on a near tie, within the tolerance of the scores.
    """
    tolerances: dict[str, float | None] = {}
    for name, first in references[0].items():
        if not np.issubdtype(first.dtype, np.floating):
            tolerances[name] = None
            continue
        pairs = [
            (want[name].astype(np.float64), got[name].astype(np.float64))
            for want, got in zip(references, measured, strict=True)
        ]
        error = max(float(np.abs(want - got).max(initial=0)) for want, got in pairs)
        largest = max(float(np.abs(want).max(initial=0)) for want, _ in pairs)
        tolerances[name] = _QUANTIZATION_GAIN * error + _HALF_RESOLUTION * largest
    return tolerances


def _engine_commands(
    card: TargetCard, inputs: Sequence[InputSpec], batch: BatchRange | None
) -> dict[str, list[str]]:
    build = trtexec_line(card, onnx_name=QDQ_MODEL, engine_name=ENGINE, inputs=inputs, batch=batch)
    timing = timing_line(card, engine_name=ENGINE, inputs=inputs, batch=batch)
    return {"build": build, "timing": timing}


def _engine_request(
    model: onnx.ModelProto, card: TargetCard, inputs: Sequence[InputSpec], batch: BatchRange
) -> dict[str, Any]:
    """Return what `deploy.board.run` needs to build the engine."""
    facts = describe(model)
    return {
        "workspace_mib": WORKSPACE_MIB,
        "is_weak": card.weak_typing and facts.flavour != "fp16-typed",
        "names": list(facts.names),
        "meant": [list(item) for item in facts.meant],
        "shapes": [
            {"input": item.name}
            | {key: [getattr(batch, key), *item.shape] for key in ("min", "opt", "max")}
            for item in inputs
            if item.batch is None
        ],
    }


def _flavour(model: onnx.ModelProto, card: TargetCard) -> str:
    if card.flavour is GraphFlavour.ORT_CPU:
        return GraphFlavour.ORT_CPU.value
    is_half = any(item.data_type == onnx.TensorProto.FLOAT16 for item in model.graph.initializer)
    return "fp16-typed" if is_half else "fp32-typed"


def _describe(
    model: onnx.ModelProto, card: TargetCard, provenance: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the metadata that the host knows (deployment/tensorrt.md 4.6)."""
    opsets = {item.domain or "ai.onnx": item.version for item in model.opset_import}
    return {
        "schema": 1,
        "edgeq_version": edgeq.__version__,
        "target": card.name,
        "runtime": card.runtime,
        "runtime_version": card.runtime_version,
        "stack": card.stack,
        "compute_capability": card.compute_capability,
        "graph_flavour": _flavour(model, card),
        "opsets": opsets,
        "ir_version": model.ir_version,
        "verified_on_hardware": False,
        "provenance": dict(provenance),
    }


def _require_portable(value: Any) -> None:
    """Check that `value` holds no path of the host."""
    if isinstance(value, Mapping):
        value = [*value, *value.values()]
    if isinstance(value, list | tuple):
        for item in value:
            _require_portable(item)
    elif isinstance(value, Path) or (isinstance(value, str) and _is_host_path(value)):
        msg = f"the provenance of a bundle holds a path of the host: {value}"
        raise EdgeqBug(msg)


def _is_host_path(text: str) -> bool:
    try:
        return Path(text).is_absolute() and Path(text).exists()
    except (OSError, ValueError):  # longer than a path may be, or with a NUL: no path
        return False


def _seal(folder: Path) -> None:
    """Make the scripts executable and write the checksums of every file."""
    for path in folder.glob("*.sh"):
        path.chmod(0o755)
    lines = [f"{digest_file(folder / name)}  {name}\n" for name in sorted(_names(folder))]
    write_bytes(folder / SUMS, "".join(lines).encode())


def _names(folder: Path) -> list[str]:
    """Return the paths of all files, relative to `folder`."""
    return [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]


@contextmanager
def _whole_folder(folder: Path) -> Iterator[Path]:
    """Yield a sibling that takes the name `folder` when the block ends without an error."""
    if folder.exists() and not (folder / RECORD).is_file():
        raise InputError(
            f"{folder.name} exists and is no bundle",
            why="a bundle replaces only an earlier bundle",
            mend="remove it, or choose another folder with --out",
            path=folder,
        )
    part, old = (folder.with_name(f".{folder.name}.{end}") for end in ("part", "old"))
    try:
        for left in (part, old):  # of a run that was killed
            if left.exists():
                shutil.rmtree(left)
        part.mkdir(parents=True)
        yield part
        if folder.exists():
            folder.rename(old)
        part.rename(folder)
        shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        raise InputError(
            f"cannot write {folder.name}: {error.strerror or error}",
            why="the bundle goes to a folder that can be written",
            mend="mend the permissions, or choose another folder with --out",
            path=folder,
        ) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
