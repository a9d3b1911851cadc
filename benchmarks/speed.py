"""Measure synthesis, training and reconstruction against a plain implementation and against their floor.

    EDGEQ_FIXTURES=../shared/data python benchmarks/speed.py            # ResNet-20 on CIFAR-10; two minutes
    EDGEQ_FIXTURES=../shared/data python benchmarks/speed.py --write    # the same, into docs/speed.md
    python benchmarks/speed.py --model examples/digits/digits_bn.onnx --preset unit
    python benchmarks/speed.py --device cuda                            # on a GPU: seconds of the wall

The variants take turns, `--rounds` times, and the median counts: seconds of the processor, one thread, so that other
programs on the machine count little. See benchmarks/speed_loops.py for what each variant is.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from speed_loops import Loop, reconstruction_loop, synthesis_loop, training_loop
from speed_page import RECORD, memory, table, write_page

from edgeq.core.files import write_json
from edgeq.core.recipes import load_recipe
from edgeq.pipeline import make_options
from edgeq.pipeline.job import prepare

VARIANTS = ("ours", "plain", "floor", "float32_floor")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument(
        "--model", type=Path, help="an ONNX file; default: ResNet-20 of the fixtures"
    )
    parser.add_argument("--preset", default="", help="preprocessing of --model, by name")
    parser.add_argument("--bits", default="w4a4")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N: as of edgeq build")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--loops", nargs="+", default=["synthesis", "training", "reconstruction"])
    parser.add_argument(
        "--write", action="store_true", help="keep the figures, write docs/speed.md"
    )
    options = parser.parse_args()
    if options.write and options.device != "cpu":
        sys.exit("error: --write keeps the figures of the CPU, which docs/speed.md tells")
    fixtures = os.environ.get("EDGEQ_FIXTURES")
    if options.model is None and fixtures is None:
        sys.exit("error: pass --model, or set EDGEQ_FIXTURES to the folder that holds cifar10/")
    model = options.model or Path(str(fixtures)) / "cifar10" / "resnet20_bn.onnx"
    preset = options.preset or ("imagenet" if options.model is None else None)
    torch.set_num_threads(1)
    job = prepare(
        make_options(
            model,
            target="jetson-orin",
            bits=options.bits,
            preset=preset,
            device=options.device,
            out=Path("unused"),
        )
    )
    loops: list[Loop] = []
    if "synthesis" in options.loops:
        loops.append(synthesis_loop(job, job.compute))
    if "training" in options.loops:
        loops.append(training_loop(job, options.bits))
    if "reconstruction" in options.loops:
        for name in ("brecq", "genie-m"):
            spec = load_recipe(name).reconstruction
            loops.append(reconstruction_loop(job, options.bits, spec, name))
    with job.compute.session():
        rows = [measure(loop, options.rounds) for loop in loops]
    place = job.compute.name if options.device != "cpu" else f"one thread of {platform.machine()}"
    record = record_of(rows, model.name, options.bits, place)
    print("\n".join([*table(record["rows"]), "", *memory(record["memory"])]))
    if options.write:
        write_json(RECORD, record)
        write_page()


@dataclass(frozen=True, kw_only=True)
class Row:
    """Median seconds of each variant's step."""

    loop: Loop
    seconds: dict[str, float]


def measure(loop: Loop, rounds: int) -> Row:
    """Return the median step of each variant, over `rounds` turns; parts of a loop are added up."""
    found: dict[str, list[list[float]]] = {name: [] for name in VARIANTS}
    for _ in range(rounds):
        for name in VARIANTS:
            for index, part in enumerate(getattr(loop, name)()):
                if len(found[name]) == index:
                    found[name].append([])
                found[name][index] += part
    return Row(
        loop=loop,
        seconds={name: sum(map(statistics.median, parts)) for name, parts in found.items()},
    )


def record_of(rows: list[Row], model: str, bits: str, place: str) -> dict[str, Any]:
    """Return what was measured, and where."""
    return {
        "model": model,
        "bits": bits,
        "where": f"{place} with {torch.backends.cpu.get_cpu_capability()}",
        "torch": torch.__version__,
        "memory": measure_memory(),
        "rows": [
            {
                "loop": row.loop.name,
                "precision": row.loop.precision,
                "unit": row.loop.unit,
                "per_step": row.loop.per_step,
                "seconds": row.seconds,
            }
            for row in rows
        ],
    }


def measure_memory() -> dict[str, Any]:
    """Return what `benchmarks/memory.py` prints, run in a process of its own."""
    script = str(Path(__file__).with_name("memory.py"))
    command = [sys.executable, script, "--counts", "256", "16384"]
    found: dict[str, Any] = json.loads(
        subprocess.run(command, capture_output=True, check=True).stdout
    )
    return found


if __name__ == "__main__":
    main()
