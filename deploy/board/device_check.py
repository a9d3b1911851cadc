"""Asks a board what the documents leave open: `./device_check.sh` of a bundle, and `edgeq device-check`.

Each probe is a tiny ONNX file that this TensorRT takes or refuses. The findings, beside what the target's card says
and how that is known, go to device_check.json; it is written after every probe, so one that ends the process is named.
"""

import importlib.util
import json
import logging
import sys
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional

import edgeq
from deploy.board.builder import count_dla_cores, run_builder, why_refused
from deploy.board.dialect import Dialect
from deploy.board.driver import Device, probe_driver
from deploy.board.facts import read_facts
from deploy.board.inspector import MeantNode, judge_int8, read_layers
from deploy.board.releases import SUPPORTED, choose_dialect
from deploy.board.request import BuildRequest
from deploy.board.target import how_to_install
from edgeq.core.errors import (
    INTERRUPTED,
    BuildError,
    DeviceError,
    EdgeqError,
    MissingDependencyError,
)
from edgeq.core.files import read_json, write_json
from edgeq.core.optional import require, version_numbers
from edgeq.core.progress import NoProgress

FOLDER, INDEX, REPORT = "probes", "probes.json", "device_check.json"
Say = Callable[[str], None]


def check_device(
    folder: Path, *, out: Path, say: Say, probe: Callable[[], Device] = probe_driver
) -> Dict[str, Any]:
    """Return what the probes in `folder` found on this machine, and write it to `out`, also after a fault.

    Args:
        folder: of the probes and their index.
        out: a file.
        say: takes each line for people.
        probe: finds the GPU.

    Raises:
        MissingDependencyError: if TensorRT is not installed.
        DeviceError: if there is no GPU or no driver.
        InputError: if the probes cannot be read.
    """
    index = read_json(folder / INDEX)
    card = index["card"]
    report: Dict[str, Any] = {
        "schema": 1,
        "edgeq_version": edgeq.__version__,
        "system": read_facts(),
        "target": None if card is None else card["name"],
        "probes": {},
    }
    try:
        device = _find_device(report, card, probe)
        trt = require("tensorrt", SUPPORTED, why="to ask it", install=_install(card))
        report["tensorrt_version"] = str(trt.__version__)
        say(f"device: {device.name}, TensorRT {trt.__version__}, CUDA {device.cuda_version}")
        dialect = choose_dialect(trt)
        report["dla_cores"] = count_dla_cores(trt)
        is_weak = card is None or card["weak_typing"]
        for item in index["probes"]:
            report["running"] = item["name"]
            write_json(out, report)
            found = ask(trt, dialect, folder, item, is_weak=is_weak)
            report["probes"][item["name"]] = found
            say(f"{item['asks']} {found['answer']}")
        del report["running"]
        report["card"] = [] if card is None else compare_card(card["facts"], report)
        for row in report["card"]:
            word = "agrees" if row["agrees"] else "DIFFERS"
            say(
                f"card {word}: {row['fact']} is {row['card']} ({row['evidence']}), found {row['found']}"
            )
    except EdgeqError as error:
        report["error"] = {"kind": type(error).__name__, "what": error.what, "mend": error.mend}
        raise
    finally:
        write_json(out, report)
    return report


def ask(
    trt: Any, dialect: Dialect, folder: Path, item: Dict[str, Any], *, is_weak: bool
) -> Dict[str, Any]:
    """Return what this TensorRT does with one probe: `answer` in words, `taken`, `built`, `int8` and `reason`.

    `built` and `int8` are None where that was not asked, or cannot be told.
    """
    request = BuildRequest(
        model=folder / f"{item['name']}.onnx",
        names=tuple(item["names"]),
        meant=tuple(MeantNode(*node) for node in item["meant"]),
        is_weak=is_weak and not item["is_strong"],
    )
    found: Dict[str, Any] = {"taken": False, "built": None, "int8": None, "reason": ""}
    found["reason"] = why_refused(trt, dialect, request)
    if found["reason"]:
        return dict(found, answer=f"refused: {found['reason']}")
    found["taken"] = True
    if not item["builds"]:
        return dict(found, answer="taken")
    try:
        built = run_builder(trt, dialect, request, fit=lambda inputs: [], progress=NoProgress())
    except BuildError as error:
        return dict(found, built=False, reason=error.what, answer=f"not built: {error.what}")
    found["built"] = True
    report = judge_int8(read_layers(built.layers), request.meant)
    if not request.meant or report.unknown:
        return dict(found, answer="built")
    found["int8"] = not report.missed
    return dict(found, answer="built, in INT8" if found["int8"] else "built, and not in INT8")


def compare_card(facts: Dict[str, Any], report: Dict[str, Any]) -> List[Dict[str, Any]]:
    """Return one row for each fact of the card that the probes could find."""
    probes = report["probes"]
    found = {
        "runtime_version": ".".join(map(str, version_numbers(report["tensorrt_version"])[:2])),
        "compute_capability": report["device"]["compute_capability"],
        "opset_max": _largest(probes, "opset-"),
        "ir_max": _largest(probes, "ir-"),
        "prequantized_weights": probes["int8-conv"]["taken"],
        "dla_cores": report["dla_cores"],
        "formats": [name for name, yes in _formats(probes).items() if yes],
    }
    rows = []
    for name, fact in facts.items():
        wanted = fact["card"]
        if name == "formats":  # of those that a probe can tell apart
            wanted = [item for item in wanted if item in _formats(probes)]
        row = {"fact": name, "card": wanted, "evidence": fact["evidence"], "found": found[name]}
        rows.append(dict(row, agrees=_agrees(wanted, found[name])))
    return rows


def _formats(probes: Dict[str, Any]) -> Dict[str, bool]:
    return {
        "int8": any(probes[name]["int8"] for name in ("int8-conv", "float-weights")),
        "int4-weights": any(
            item["built"] for name, item in probes.items() if name.startswith("int4-")
        ),
        "fp8": bool(probes["fp8"]["built"]),
    }


def _agrees(card: Any, found: Any) -> bool:
    if isinstance(card, list):
        return sorted(card) == sorted(found)
    if isinstance(card, str):  # a card may name more digits of a version, or fewer
        return version_numbers(card)[:2] == version_numbers(found)[:2]
    return bool(card == found)


def _largest(probes: Dict[str, Any], prefix: str) -> Optional[int]:
    """Return the last of the rising numbers up to which every probe was taken."""
    numbers = sorted(int(name[len(prefix) :]) for name in probes if name.startswith(prefix))
    best = None
    for number in numbers:
        if not probes[f"{prefix}{number}"]["taken"]:
            break
        best = number
    return best


def _find_device(
    report: Dict[str, Any], card: Optional[Dict[str, Any]], probe: Callable[[], Device]
) -> Device:
    """Return the GPU; say all that is missing at once, before any TensorRT object is made."""
    missing, fault = [], None
    if importlib.util.find_spec("tensorrt") is None:
        missing.append("TensorRT's Python bindings (module 'tensorrt')")
    try:
        device = probe()
        report["device"] = device._asdict()
    except DeviceError as error:
        fault = error
        missing.append(error.what)
    report["missing"] = missing
    if missing and missing[0].startswith("TensorRT"):
        raise MissingDependencyError(
            f"this machine lacks: {'; '.join(missing)}",
            why="the questions are put to TensorRT on the GPU",
            mend=f"run this on the board; {_install(card)}",
        )
    if fault is not None:
        raise fault
    return device


def _install(card: Optional[Dict[str, Any]]) -> str:
    if card is None:
        return "JetPack: sudo apt-get install python3-libnvinfer; elsewhere: pip install tensorrt"
    return how_to_install(card["stack"], card["facts"]["runtime_version"]["card"])


def main(arguments: Optional[List[str]] = None) -> int:
    """Return the exit code: 0, 130 for an interrupt, or that of the fault. Runs in the folder of a bundle."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")

    def say(text: str) -> None:
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()

    try:
        report = check_device(Path(FOLDER), out=Path(REPORT), say=say)
    except EdgeqError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return INTERRUPTED
    say(f"report: {REPORT}, {len(json.dumps(report))} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
