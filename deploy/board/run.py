"""What `./build.sh` of a bundle does: build the engine, run the samples, compare, time, report.

Main entry: `run_bundle`. The checksums were verified by build.sh before this file was read. A run that was cut off can
be run again: an engine that is whole, of this model, TensorRT and GPU, is used again.
"""

import json
import time
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, NamedTuple, Optional

import numpy as np

import edgeq
from deploy.board.builder import run_builder
from deploy.board.cuda import Cuda
from deploy.board.dla import choose_core
from deploy.board.driver import Device, probe_driver
from deploy.board.facts import read_facts
from deploy.board.inspector import judge_int8, read_layers
from deploy.board.judge import OutputVerdict, judge_outputs
from deploy.board.loading import Loading
from deploy.board.record import read_record, write_engine_files
from deploy.board.releases import SUPPORTED, choose_dialect
from deploy.board.request import BuildRequest, InputShapes, read_request, read_shapes
from deploy.board.runner import Engine
from deploy.board.samples import read_inputs, read_outputs
from deploy.board.target import how_to_install, require_target
from deploy.board.timing import TimingSpec, time_engine
from edgeq.core.errors import EdgeqError, InputError
from edgeq.core.files import digest_file, write_json
from edgeq.core.optional import require
from edgeq.core.progress import Progress

RECORD, MODEL, ENGINE, TIMING_CACHE = "bundle.json", "model.qdq.onnx", "model.plan", "timing.cache"
INPUTS, OUTPUTS, SUMS, REPORT = "inputs.json", "outputs.json", "SHA256SUMS", "device_report.json"
Say = Callable[[str], None]


class RunOptions(NamedTuple):
    """How to run a bundle.

    Attributes:
        timing: how to measure.
        is_rebuild: build the engine even if one is there.
        device: of `deploy.board.dla.DEVICES`; None for what the bundle was made for.
    """

    timing: TimingSpec = TimingSpec()
    is_rebuild: bool = False
    device: Optional[str] = None


def run_bundle(
    folder: Path,
    *,
    options: RunOptions,
    say: Say,
    progress: Progress,
    probe: Callable[[], Device] = probe_driver,
    open_cuda: Callable[..., Cuda] = Cuda,
) -> Dict[str, Any]:
    """Return the report on the bundle in `folder`, and write it to device_report.json there, also after a fault.

    Args:
        folder: the bundle.
        options: how.
        say: takes each line for people.
        progress: who hears of the build.
        probe: finds the GPU.
        open_cuda: gives access to it.

    Raises:
        EdgeqError: if the engine cannot be built, run or compared; a wrong output is no such fault.
    """
    started = time.time()
    report: Dict[str, Any] = {
        "schema": 1,
        "passed": False,
        "edgeq_version": edgeq.__version__,
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(started)),
    }
    write_json(
        folder / REPORT, report
    )  # whatever ends this run, an earlier report does not pass for its own
    try:
        _fill(report, folder, options, say, progress, probe, open_cuda)
    except EdgeqError as error:
        kind = type(error).__name__
        report["error"] = {"kind": kind, "what": error.what, "why": error.why, "mend": error.mend}
        report["verdict"] = f"FAIL: {error.what}"
        raise
    finally:
        report["seconds"] = round(time.time() - started, 1)
        write_json(folder / REPORT, report)
    return report


def _fill(
    report: Dict[str, Any],
    folder: Path,
    options: RunOptions,
    say: Say,
    progress: Progress,
    probe: Callable[[], Device],
    open_cuda: Callable[..., Cuda],
) -> None:
    """Do all steps; what is known goes into `report` step by step."""
    bundle = _read_bundle(folder)
    report.update(target=bundle["target"], bundle_sha256=digest_file(folder / SUMS))
    report["provenance"] = bundle["provenance"]
    core = choose_core(options.device, bundle["engine"])
    report["dla_core"] = core
    report["facts"] = read_facts()
    device = probe()
    report["device"] = device._asdict()
    install = how_to_install(bundle["stack"], bundle["runtime_version"])
    trt = require("tensorrt", SUPPORTED, why="to build the engine", install=install)
    report["tensorrt_version"] = str(trt.__version__)
    say(f"device: {device.name}, TensorRT {trt.__version__}, CUDA {device.cuda_version}")
    require_target(
        bundle["target"],
        device,
        str(trt.__version__),
        wanted_version=bundle["runtime_version"],
        wanted_capability=bundle["compute_capability"],
    )
    report["engine"] = _make_engine(trt, device, bundle, folder, options, core, say, progress)
    with open_cuda(is_spinning=options.timing.is_spinning) as cuda:
        is_managed = cuda.is_integrated and not options.timing.has_transfers
        plan = (folder / ENGINE).read_bytes()
        loading = Loading(dla_core=core)
        engine = Engine(trt, plan, cuda, loading=loading, is_managed=is_managed)
        calls = read_inputs(folder / INPUTS)
        verdicts = judge_outputs(
            read_outputs(folder / OUTPUTS),
            [engine.run(call) for call in calls],
            bundle["tolerances"],
        )
        report["comparison"] = [item._asdict() for item in verdicts]
        _say_verdicts(verdicts, say)
        ranges = read_shapes(bundle["engine"]["shapes"], dla_core=core)
        shapes = {item.input: item.opt for item in ranges}
        engine.bind(_enlarge(calls[0], shapes))
        report["timing"] = time_engine(engine, cuda, options.timing)
    report["timing"]["shapes"] = {
        name: list(shapes.get(name, values.shape)) for name, values in calls[0].items()
    }
    report["facts_after"] = read_facts()
    _say_timing(report["timing"], say)
    report["passed"] = all(item.passed for item in verdicts)
    report["verdict"] = _conclude(verdicts)
    say(report["verdict"])


def _read_bundle(folder: Path) -> Dict[str, Any]:
    try:
        bundle = json.loads((folder / RECORD).read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise _no_bundle(folder, str(error)) from error
    if not isinstance(bundle, dict) or "engine" not in bundle:
        raise _no_bundle(folder, "it says nothing of an engine")
    return bundle


def _no_bundle(folder: Path, what: str) -> InputError:
    return InputError(
        f"{RECORD} cannot be used: {what}",
        why="it says what is to be built and how far outputs may differ",
        mend="copy the bundle again, and run its build.sh",
        path=folder,
    )


def _make_engine(
    trt: Any,
    device: Device,
    bundle: Mapping[str, Any],
    folder: Path,
    options: RunOptions,
    core: Optional[int],
    say: Say,
    progress: Progress,
) -> Dict[str, Any]:
    """Return the record of the engine, which is built unless the right one is there."""
    plan = folder / ENGINE
    request = read_request(
        folder,
        bundle["engine"],
        model=folder / MODEL,
        timing_cache=folder / TIMING_CACHE,
        dla_core=core,
    )
    origin = {
        "model_sha256": digest_file(request.model),
        "target": bundle["target"],
        "request": _asked(bundle, request),
        "graph_flavour": bundle["graph_flavour"],
    }
    record = None if options.is_rebuild else read_record(plan)
    if record is not None and _is_same(record, origin, device, str(trt.__version__)):
        say(f"engine: {ENGINE} is there from an earlier run, and is used again")
        return dict(record, is_reused=True)
    shapes = read_shapes(bundle["engine"]["shapes"], dla_core=core)
    built = run_builder(
        trt,
        choose_dialect(trt),
        request,
        fit=lambda inputs: _fit(inputs, shapes),
        progress=progress,
    )
    int8 = judge_int8(read_layers(built.layers), request.meant)
    write_engine_files(plan, built, device=device, int8=int8, origin=origin)
    say(f"engine: {ENGINE}, {len(built.plan) / 1e6:.1f} MB, built in {built.seconds:.0f} s")
    if core is None:
        say(f"INT8: {len(int8.int8)} of {len(request.meant)} layers that were meant to")
    else:
        say(f"DLA core {core}, layers that it cannot take on the GPU")
    for line in int8.missed:
        say(f"warning: meant to run in INT8 and does not: {line}")
    for line in int8.unknown:
        say(f"warning: meant to run in INT8, and the engine does not tell: {line}")
    return dict(read_record(plan) or {}, is_reused=False)


def _asked(bundle: Mapping[str, Any], request: BuildRequest) -> Dict[str, Any]:
    """Return what the builder is asked, but for what follows from the model."""
    asked = {key: bundle["engine"][key] for key in ("workspace_mib", "is_weak", "shapes")}
    asked["dla_core"] = request.dla_core
    if request.calibration_cache is not None:  # the same model has other scales with another cache
        asked["calibration_cache_sha256"] = digest_file(request.calibration_cache)
    return asked


def _is_same(
    record: Mapping[str, Any], origin: Mapping[str, Any], device: Device, version: str
) -> bool:
    """Return whether an engine's record is that of this model, request, GPU and TensorRT."""
    return (
        record.get("model_sha256") == origin["model_sha256"]
        and record.get("tensorrt_version") == version
        and record.get("device") == device._asdict()
        and record.get("request") == origin["request"]
    )


def _fit(inputs: Mapping[str, Any], shapes: Any) -> List[InputShapes]:
    """Return the ranges of the dynamic inputs, which the host fitted to this very model."""
    dynamic = {name for name, shape in inputs.items() if -1 in shape}
    known = {item.input for item in shapes}
    if dynamic != known:
        raise InputError(
            f"dynamic inputs are {sorted(dynamic)}, and the bundle has ranges for {sorted(known)}",
            why="an engine needs one range of shapes for each dynamic input",
            mend="make the bundle again with `edgeq build`",
        )
    return list(shapes)


def _enlarge(call: Mapping[str, Any], shapes: Mapping[str, Any]) -> Dict[str, Any]:
    """Return the samples of a call, repeated along the batch to the shapes that the engine is tuned for."""
    return {
        name: values if name not in shapes else np.resize(values, shapes[name])
        for name, values in call.items()
    }


def _say_verdicts(verdicts: List[OutputVerdict], say: Say) -> None:
    for item in verdicts:
        if item.tolerance is None:
            share = f"{100 * item.equal:.1f} % of the values equal"
            say(f"note output '{item.name}': {share}, not judged")
            continue
        word = "ok  " if item.passed else "FAIL"
        match = "" if item.top1_match is None else f", top-1 match {100 * item.top1_match:.1f} %"
        lost = f", {item.not_finite} values not finite" if item.not_finite else ""
        say(
            f"{word} output '{item.name}': differs by {item.max_difference:.6g} at most, "
            f"{item.tolerance:.6g} allowed{match}{lost}"
        )


def _say_timing(timing: Mapping[str, Any], say: Say) -> None:
    settings = timing["settings"]
    words = ["with" if settings[key] else "no" for key in ("has_transfers", "has_graph")]
    wait = "spin" if settings["is_spinning"] else "blocking"
    say(
        f"latency: median {timing['latency_ms']['median']:.4f} ms, p99 {timing['latency_ms']['p99']:.4f} ms, "
        f"{timing['throughput_qps']:.1f} queries/s"
    )
    say(f"measured: {words[0]} transfers, {wait} wait, {words[1]} CUDA graph")
    for line in timing["warnings"]:
        say(f"warning: {line}")


def _conclude(verdicts: List[OutputVerdict]) -> str:
    wrong = [item.name for item in verdicts if not item.passed]
    if wrong:
        return f"FAIL: the engine's outputs are off: {', '.join(wrong)}"
    if all(item.tolerance is None for item in verdicts):
        return "PASS: the engine runs; none of its outputs is a float, so none was judged"
    return "PASS"


def failed_outputs(report: Mapping[str, Any]) -> Optional[str]:
    """Return the sentence on a comparison that failed; None if it passed."""
    return None if report["passed"] else str(report["verdict"])
