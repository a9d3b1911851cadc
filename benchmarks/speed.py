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
import os
import platform
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from speed_loops import Loop, reconstruction_loop, synthesis_loop, training_loop

from edgeq.core.recipes import load_recipe
from edgeq.pipeline import make_options
from edgeq.pipeline.job import prepare

VARIANTS = ("ours", "plain", "floor", "float32_floor")
COLUMNS = (
    "loop",
    "precision",
    "ms a step",
    "plain, ms",
    "plain / ours",
    "floor, ms",
    "ours / floor",
    "float32 floor, ms",
    "ours / float32 floor",
    "speed",
    "plain speed",
)


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
    options = parser.parse_args()
    fixtures = os.environ.get("EDGEQ_FIXTURES")
    if options.model is None and fixtures is None:
        sys.exit("error: pass --model, or set EDGEQ_FIXTURES to the folder that holds cifar10/")
    model = options.model or Path(str(fixtures)) / "cifar10" / "resnet20_bn.onnx"
    preset = options.preset or ("imagenet" if options.model is None else None)
    torch.set_num_threads(1)
    job = prepare(
        make_options(
            model,
            target="cpu",
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
    rows = [measure(loop, options.rounds) for loop in loops]
    print(describe(rows, model.name))


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


def describe(rows: list[Row], model: str) -> str:
    """Return the table in Markdown."""
    where = f"one thread of {platform.machine()} with {torch.backends.cpu.get_cpu_capability()}"
    lines = [
        f"`{model}`, {where}, torch {torch.__version__}.",
        "",
        f"| {' | '.join(COLUMNS)} |",
        "|---" * len(COLUMNS) + "|",
    ]
    for row in rows:
        loop, s = row.loop, row.seconds
        cells = [
            loop.name,
            loop.precision,
            *(f"{1000 * s[key]:.0f}" for key in ("ours", "plain")),
            f"{s['plain'] / s['ours']:.2f}",
            f"{1000 * s['floor']:.0f}",
            f"{s['ours'] / s['floor']:.2f}",
            f"{1000 * s['float32_floor']:.0f}",
            f"{s['ours'] / s['float32_floor']:.2f}",
            *(f"{loop.per_step / s[key]:.2f} {loop.unit}" for key in ("ours", "plain")),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
