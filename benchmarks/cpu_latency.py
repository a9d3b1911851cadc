"""Measure what `--target cpu` is worth in ONNX Runtime: latency against FP32 and against its quantize_static.

    EDGEQ_FIXTURES=../shared/data python benchmarks/cpu_latency.py                      # everything, about 15 minutes
    EDGEQ_FIXTURES=../shared/data python benchmarks/cpu_latency.py --nets cifar10 --threads 1 --batches 1

Networks: the CIFAR-10 teacher of the fixtures, and MobileNetV2 and ResNet-50 at 224 (benchmarks/image_nets.py). Each is
built once at w8a8 by the stages of `edgeq build --target cpu`, without training steps (latency does not depend on
values), and quantized by quantize_static at its best: after quant_pre_process, U8S8, a scale a channel, in Q/DQ and in
QOperator form. All files run in one process, with inputs and outputs that stay where they are (IO binding, as in
tools/bench_latency.py); in every round each is called for a while that does not count and then a few times in a row,
in an order that turns, and the median of these calls counts. Ratios are medians over rounds of two
times of the same round. Two sessions of one file differ by up to 2 %, by where their memory lies: so all sessions are
made anew several times, and a second session of quantize_static's file shows what is left of it. With one thread the
clock is that thread's processor time, which is the latency on an idle machine and does not count what others take on a
busy one; with more threads it is wall time, and a busy machine shows; before each file the workers of the one before
are given time to come to rest.
These are figures of ONNX Runtime on this processor, never TensorRT's.
Kept in benchmarks/cpu_latency.json, from which docs/results.md is made.
"""

from __future__ import annotations

import argparse
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from fixtures import add_fixtures, cifar10_of
from image_nets import NETS, SHAPE, write_net
from onnx import numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from results_page import CPU_RECORD, write_page

import edgeq
from deploy.fusions import read_fusions
from deploy.onnxrt import Session
from deploy.providers import bind_call
from edgeq.core.files import read_json, write_json
from edgeq.core.progress import NoProgress
from edgeq.core.samples import SampleSet
from edgeq.pipeline import make_options, stages
from edgeq.pipeline.job import prepare

CIFAR10 = "cifar10"
SEED = 0
RIVALS = {
    "quantize_static, Q/DQ": QuantFormat.QDQ,
    "quantize_static, QOperator": QuantFormat.QOperator,
}
AGAIN = "quantize_static, Q/DQ, again"  # the same file, to show how far equals differ
LEAST_ROUNDS = 3
# How often all sessions are made anew.
SESSIONS = 6
# Calls in a row: at most, and for how long at most if more than one.
CALLS, CALLS_MS = 20, 20.0
# Calls before those, if they are short: a file finds its caches, and workers come up from a rest, which takes them some
# 50 calls of 0.14 ms.
WARM_MS = 10.0
# ONNX Runtime's workers spin for 34 to 37 ms after a call (1.31.1); those of the file before would take a core from the
# next one, whose calls in a row are shorter than that.
REST_S = 0.05


def main() -> None:
    """Measure what was asked, and write record and page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    names = [CIFAR10, *NETS]
    parser.add_argument("--nets", nargs="+", default=names, choices=names)
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 16])
    parser.add_argument("--seconds", type=float, default=20.0, help="of one comparison")
    parser.add_argument(
        "--keep", type=Path, help="folder for the files; those in it are used again"
    )
    add_fixtures(parser)
    options = parser.parse_args()
    cifar10 = cifar10_of(options)
    record = read_json(CPU_RECORD) if CPU_RECORD.exists() else {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.keep or Path(scratch)
        for net in options.nets:
            files = make_files(net, folder / net, cifar10)
            shape = (3, 32, 32) if net == CIFAR10 else SHAPE
            for threads in options.threads:
                for batch in options.batches:
                    found = compare(
                        files, (batch, *shape), threads=threads, limit_s=options.seconds
                    )
                    record[f"{net}/{threads}/{batch}"] = found | describe(files)
                    print(f"{net}, {threads} threads, batch {batch}", flush=True)
                    for name, figures in found["files"].items():
                        print(f"    {name:28s}{figures}", flush=True)
                    write_json(CPU_RECORD, record)
    write_page()


def make_files(net: str, folder: Path, cifar10: Path) -> dict[str, Path]:
    """Return the files to compare by name, made where they are missing."""
    folder.mkdir(parents=True, exist_ok=True)
    model = folder / "fp32.onnx"
    if net == CIFAR10:
        model = cifar10 / "resnet20_bn.onnx"
    elif not model.exists():
        write_net(net, model, seed=SEED)
    files = {"FP32": model, "edgeq": folder / "edgeq" / "model.qdq.onnx"}
    if not files["edgeq"].exists():
        build(model, folder / "edgeq")
    files["edgeq, activations in INT8"] = folder / "signed.onnx"
    onnx.save(in_int8(onnx.load(files["edgeq"])), files["edgeq, activations in INT8"])
    samples = SampleSet.load(folder / "edgeq" / "samples").feed(slice(16))
    for name, form in RIVALS.items():
        files[name] = folder / f"{form.name}.onnx"
        if not files[name].exists():
            prepared = folder / "prepared.onnx"
            quant_pre_process(str(model), str(prepared))
            quantize_static(
                str(prepared),
                str(files[name]),
                Reader(samples),
                quant_format=form,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                per_channel=True,
            )
    return files


def build(model: Path, folder: Path) -> None:
    """Run the stages of `edgeq build --target cpu` up to the file, without training steps."""
    settings = {"training.steps": "0", "training.range_samples": "16", "synthesis.samples": "16"}
    job = prepare(
        make_options(
            model,
            target="cpu",
            effort="quick",
            seed=SEED,
            out=folder,
            recipe="noise",
            preset="imagenet",
            settings=settings,
        )
    )
    stages.make_samples(job, folder, NoProgress())
    samples = SampleSet.load(folder / "samples")
    stages.make_values(job, samples, folder, NoProgress())
    stages.write_model(job, samples, folder, NoProgress())


def in_int8(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model with UINT8 codes moved by 128 into INT8: the same values, another form (S8S8)."""
    for item in model.graph.initializer:
        if item.data_type == onnx.TensorProto.UINT8:
            codes = numpy_helper.to_array(item).astype(np.int16) - 128
            item.CopyFrom(numpy_helper.from_array(codes.astype(np.int8), item.name))
    return model


class Reader(CalibrationDataReader):  # type: ignore[misc]
    """Gives quantize_static the sample set that edgeq sets its ranges on."""

    def __init__(self, feed: Mapping[str, np.ndarray]) -> None:
        name, x = next(iter(feed.items()))
        self._feeds: Iterator[dict[str, np.ndarray]] = iter([{name: item[None]} for item in x])

    def get_next(self) -> dict[str, np.ndarray] | None:
        """Return the next sample, or None."""
        return next(self._feeds, None)


def compare(
    files: Mapping[str, Path], shape: tuple[int, ...], *, threads: int, limit_s: float
) -> dict[str, Any]:
    """Return the latency of every file, measured in turn: median in ms, and median ratios to FP32."""
    files = {**files, AGAIN: files["quantize_static, Q/DQ"]}
    feed = {"input": np.random.default_rng(SEED).standard_normal(shape).astype(np.float32)}
    times: dict[str, list[float]] = {name: [] for name in files}
    order = list(files)
    rounds = 0
    for _ in range(SESSIONS):
        calls = {
            name: bind_call(Session(files[name], optimise=True, threads=threads), feed, "cpu")
            for name in order
        }
        for call in calls.values():
            for _ in range(3):
                call()
        rounds += time_rounds(calls, times, threads=threads, limit_s=limit_s / SESSIONS)
        order = [*order[1:], order[0]]
    return {
        "clock": "processor" if threads == 1 else "wall",
        "rounds": rounds,
        "load": round(os.getloadavg()[0], 1),
        "files": {name: figures(times, name) for name in files},
        "against_static": max(ratio(times, "edgeq", name) for name in RIVALS),
        "static_against_itself": ratio(times, AGAIN, "quantize_static, Q/DQ"),
    }


def time_rounds(
    calls: Mapping[str, Callable[[], None]],
    times: Mapping[str, list[float]],
    *,
    threads: int,
    limit_s: float,
) -> int:
    """Time every file once a round, in an order that turns, and return the number of rounds."""
    clock = time.thread_time_ns if threads == 1 else time.perf_counter_ns
    order = list(calls)
    end = time.perf_counter() + limit_s
    rounds = 0
    while rounds < LEAST_ROUNDS or time.perf_counter() < end:
        for name in order:
            if threads > 1:
                time.sleep(REST_S)
            times[name].append(time_calls(calls[name], clock))
        order = [*order[1:], order[0]]
        rounds += 1
    return rounds


def ratio(times: Mapping[str, list[float]], name: str, other: str) -> float:
    """Return the median of the time of `name` by that of `other` in the same round."""
    return round(float(np.median(np.array(times[name]) / np.array(times[other]))), 3)


def time_calls(call: Callable[[], None], clock: Callable[[], int]) -> float:
    """Return the median time of some calls in a row, in ms, after others that warm up."""
    end = time.perf_counter() + WARM_MS / 1e3
    call()
    while time.perf_counter() < end:
        call()
    found: list[float] = []
    while not found or (len(found) < CALLS and sum(found) + found[0] < CALLS_MS):
        start = clock()
        call()
        found.append((clock() - start) / 1e6)
    return float(np.median(found))


def figures(times: Mapping[str, list[float]], name: str) -> dict[str, float]:
    """Return what is recorded of one file."""
    return {
        "median_ms": round(float(np.median(times[name])), 4),
        "min_ms": round(min(times[name]), 4),
        "ratio": ratio(times, name, "FP32"),
        "ratio_of_minima": round(min(times[name]) / min(times["FP32"]), 3),
    }


def describe(files: Mapping[str, Path]) -> dict[str, Any]:
    """Return what the figures hang on: machine, versions, and what ONNX Runtime made of edgeq's file."""
    x = SampleSet.load(files["edgeq"].parent / "samples").feed(slice(2))
    flags = cpu_flags()
    return {
        "fusions": read_fusions(onnx.load(files["edgeq"]), x).summary(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {cpu_name()}, "
        f"{'AVX512-VNNI' if 'avx512_vnni' in flags else 'AVX-VNNI' if 'avx_vnni' in flags else 'no VNNI'}",
        "versions": f"edgeq {edgeq.__version__}, onnxruntime {onnxruntime.__version__}, "
        f"onnx {onnx.__version__}, numpy {np.__version__}",
        "seed": SEED,
    }


def cpu_flags() -> set[str]:
    """Return the instruction sets of this processor, where Linux tells them."""
    return set(_cpu_line("flags").split())


def cpu_name() -> str:
    """Return the processor's name."""
    return _cpu_line("model name") or platform.processor() or "unnamed processor"


def _cpu_line(key: str) -> str:
    path = Path("/proc/cpuinfo")
    for line in path.read_text().splitlines() if path.exists() else []:
        name, _, value = line.partition(":")
        if name.strip() == key:
            return value.strip()
    return ""


if __name__ == "__main__":
    main()
