"""Build ResNet-18 and MobileNetV2 at 224 x 224 on a GPU, as a user would, and keep how long it takes.

    python benchmarks/image_builds.py                                  # both networks, 1,024 images, w4a4
    python benchmarks/image_builds.py --nets resnet18 --device cuda:1 --effort quick

The networks are built in code (benchmarks/image_nets.py): their time is that of trained ones, and their accuracy means
nothing. Every build is made whole, in a folder of its own: one that went on from an interrupted run would tell too few
seconds. Runs are kept in benchmarks/image_builds.json, and docs/results.md is written anew.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from image_nets import NETS, write_net
from results_page import IMAGE_RECORD, write_page

import edgeq
from edgeq.core.files import read_json, write_json

NAMES = ("resnet18", "mobilenet_v2")
SAMPLES = 1024
BITS = "w4a4"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--nets", nargs="+", choices=sorted(NETS), default=NAMES)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--effort", default="standard")
    parser.add_argument("--samples", type=int, default=SAMPLES)
    options = parser.parse_args()
    for name in options.nets:
        with tempfile.TemporaryDirectory() as folder:
            model = Path(folder) / f"{name}.onnx"
            write_net(name, model)
            run = measure(model, options)
        print(f"{name}: {run}", flush=True)
        record = read_json(IMAGE_RECORD) if IMAGE_RECORD.exists() else {}
        record[f"{name}/{options.effort}/{run['device']}"] = run
        write_json(IMAGE_RECORD, record)
    write_page()


def measure(model: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Return the seconds of one build, whole and by stage, and where it ran."""
    started = time.monotonic()
    built = edgeq.build(
        model,
        target="jetson-orin",
        bits=BITS,
        preset="imagenet",
        effort=options.effort,
        device=options.device,
        settings={"synthesis.samples": options.samples},
        out=model.with_suffix(""),
    )
    whole = time.monotonic() - started
    return {
        "bits": BITS,
        "samples": options.samples,
        "wall_s": round(whole, 1),
        "stages_s": built.seconds,
        "device": built.results["build"]["machine"]["compute"]["device"],
        "versions": f"edgeq {edgeq.__version__}, torch {torch.__version__}",
    }


if __name__ == "__main__":
    main()
