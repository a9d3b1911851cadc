"""Hold samples made in bfloat16 against samples made in float32: does training on them lose the same?

    EDGEQ_FIXTURES=../shared/data python benchmarks/precision.py            # what is not on record; a minute a run
    EDGEQ_FIXTURES=../shared/data python benchmarks/precision.py --again

The same seed starts from the same pixels in both precisions; each set is trained on with the same seed and figures, at
the quick effort. Runs are kept in benchmarks/precision.json; `benchmarks/speed.py --write` tells them.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path
from typing import Any
from unittest import mock

from accuracy import Bench
from fixtures import add_fixtures, cifar10_of

from edgeq.core.files import read_json, write_json
from edgeq.teacher.compute import Compute

RECORD = Path(__file__).with_suffix(".json")
ROW = "w4a4/quick/edgeq"
PRECISIONS = {"float32": Compute(), "bfloat16": Compute(half=True)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    add_fixtures(parser)
    parser.add_argument("--again", action="store_true", help="measure runs that are on record anew")
    options = parser.parse_args()
    cifar10 = cifar10_of(options)
    record = read_json(RECORD) if RECORD.exists() else {}
    for name, compute in PRECISIONS.items():
        runs = record.setdefault(name, {})
        with (
            tempfile.TemporaryDirectory() as folder,
            mock.patch("edgeq.pipeline.job.choose_compute", return_value=compute),
        ):
            bench = Bench(cifar10, Path(folder), {})
            for seed in options.seeds:
                if options.again or str(seed) not in runs:
                    runs[str(seed)] = bench.run(ROW, seed)
                    print(f"{name} seed {seed}: {runs[str(seed)]}", flush=True)
                    write_json(RECORD, record)
    print("\n".join(section(record)))


def section(record: dict[str, Any]) -> list[str]:
    """Return what was found, in Markdown."""
    drops = {
        name: [found[seed]["drop_points"] for seed in sorted(found)]
        for name, found in record.items()
    }
    lines = [
        "| samples made in | drop of each seed, points | mean |",
        "|---|---|---|",
    ]
    for name, found in drops.items():
        each = ", ".join(f"{drop:.2f}" for drop in found)
        lines.append(f"| {name} | {each} | {statistics.mean(found):.2f} |")
    gap = statistics.mean(drops["bfloat16"]) - statistics.mean(drops["float32"])
    spread = statistics.mean(max(found) - min(found) for found in drops.values())
    lines += [
        "",
        f"bfloat16 loses {gap:+.2f} points against float32; seeds of one precision lie {spread:.2f} points apart.",
    ]
    return lines


if __name__ == "__main__":
    main()
