"""Write docs/results.md and what is made with it, from the records of the benchmarks.

Entry: `write_page`, or `python benchmarks/results_page.py`. Made with it: the README's table, the picture beside the
page, what `edgeq recipes` tells as measured (edgeq/recipes/measured.json), and docs/recipes.md, which tells it too.
"""

from __future__ import annotations

import json
import re
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from table_cells import read_cells
from table_page import PICTURE, measured, table_section
from table_plot import draw_table
from table_record import read_record

from edgeq.core.files import read_json, write_bytes

ROOT = Path(__file__).parents[1]
ACCURACY_RECORD = ROOT / "benchmarks" / "accuracy.json"
TABLE_RECORD = ROOT / "benchmarks" / "table.json"
CPU_RECORD = ROOT / "benchmarks" / "cpu_latency.json"
IMAGE_RECORD = ROOT / "benchmarks" / "image_builds.json"
PAGE = ROOT / "docs" / "results.md"
README = ROOT / "README.md"
MEASURED = ROOT / "edgeq" / "recipes" / "measured.json"
LIST_RECIPES = ROOT / "tools" / "list_recipes.py"
SHORT_TABLE = re.compile(
    r"(<!-- made by benchmarks/results_page.py -->\n).*?(<!-- end -->)", re.DOTALL
)

# What the project asks of edgeq's file on the CIFAR-10 teacher, as a share of FP32's time, by threads and batch.
CPU_LIMITS = {"cifar10/1/1": 0.50, "cifar10/1/16": 0.45, "cifar10/2/1": 0.50, "cifar10/2/16": 0.45}


def write_page() -> None:
    """Write every file; one that has nothing to tell goes."""
    for path, text in make_files().items():
        if text is None:
            path.unlink(missing_ok=True)
        else:
            write_bytes(path, text.encode())
    subprocess.run((sys.executable, LIST_RECIPES), check=True)  # reads what was just written


def make_files() -> dict[Path, str | None]:
    """Return what belongs into each file that is made from the records alone; none for one that is not to be there."""
    from accuracy import page  # not at the top: it writes this page too

    record = read_json(ACCURACY_RECORD)
    cells = read_cells(read_record(TABLE_RECORD))
    found = measured(cells)
    text = page(record) + table_section(cells)
    if CPU_RECORD.exists():
        text += cpu_section(read_json(CPU_RECORD))
    if IMAGE_RECORD.exists():
        text += image_section(read_json(IMAGE_RECORD))
    table = short_table(record)
    return {
        README: SHORT_TABLE.sub(lambda part: part[1] + table + part[2], README.read_text("utf-8")),
        PAGE: text,
        PAGE.with_name(PICTURE): draw_table(cells) if cells else None,
        MEASURED: json.dumps(found.to_dict(), indent=1, sort_keys=True) + "\n" if found else None,
    }


def short_table(record: dict[str, Any]) -> str:
    """Return the mean drop of the standard effort by bits, and by what the file has of BatchNorm."""
    columns = {
        "BatchNorm in the file": "edgeq",
        "folded, `--teacher`": "edgeq@teacher",
        "folded, nothing else": "edgeq@folded",
        "noise for samples": "noise@folded",
    }
    lines = [f"| bits | {' | '.join(columns)} |", f"| --- |{' --- |' * len(columns)}"]
    for bits in ("w8a8", "w4a8", "w4a4", "w3a3", "w2a4"):
        names = [f"{bits}/standard/{column}" for column in columns.values()]
        cells = [_mean_drop(name, record.get(name)) for name in names]
        lines.append(f"| {bits} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def tell_limit(limit: float | None, found: float, digits: int = 2) -> str:
    """Return what the project asks for, and whether `found` is more; "-" where it asks for nothing."""
    if limit is None:
        return "-"
    return f"{limit:.{digits}f}{', missed' if found > limit else ''}"


def _mean_drop(row: str, runs: dict[str, Any] | None) -> str:
    """Return the mean drop of a row's seeds, with * where the recipe had other figures."""
    from accuracy import is_current

    if not runs:
        return "-"
    mean = statistics.mean(run["drop_points"] for run in runs.values())
    return f"{mean:.2f}{'' if all(is_current(row, run) for run in runs.values()) else '*'}"


def image_section(record: dict[str, Any]) -> str:
    """Return the part on builds of larger networks on a GPU, from `benchmarks/image_builds.py`."""
    lines = [
        "",
        "## Builds at 224x224",
        "",
        "Made by `benchmarks/image_builds.py`: `edgeq build` for `jetson-orin`, networks built in code, one run each.",
        "The whole is wall time, with reading, proof and bundle. Accuracy means nothing on random weights.",
        "",
        "| network | effort | bits | images | device | whole, s | synthesis, s | training, s | versions |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for key, run in sorted(record.items()):
        net, effort, device = key.split("/", 2)
        stages = run["stages_s"]
        lines.append(
            f"| {net} | {effort} | {run['bits']} | {run['samples']} | {device} | {run['wall_s']:.0f} | "
            f"{stages['synthesize']:.0f} | {stages['train']:.0f} | {run['versions']} |"
        )
    return "\n".join([*lines, ""])


def cpu_section(record: dict[str, Any]) -> str:
    """Return the part on latency in ONNX Runtime, from `benchmarks/cpu_latency.py`."""
    names = list(next(iter(record.values()))["files"])
    shares = ["against static", "static again"]
    others = [name for name in names if name not in {"FP32", "quantize_static, Q/DQ, again"}]
    lines = [
        "",
        "## Latency of `--target cpu`",
        "",
        "Made by `benchmarks/cpu_latency.py`: one process, the files called in turn, w8a8. Each figure is the median",
        "over all rounds of a file's time by FP32's time in the same round; below 1 is faster than FP32. With one",
        "thread it is processor time, the latency on an idle machine; with more it is wall time, which other work on",
        "the machine blurs: see its load. `quantize_static` is ONNX Runtime's own tool at its best (after",
        "`quant_pre_process`, U8S8, a scale a channel), on the same samples. *Against static* is, likewise, edgeq's",
        "time by that of the better of the two; *static again* is a second session of the Q/DQ file by the first, so",
        "how far equals differ here. These are figures of ONNX Runtime on a processor: no TensorRT latency follows",
        "from them.",
        "",
        f"| network | threads | batch | load | FP32 ms | {' | '.join([*others, *shares])} | limit |",
        f"| {' | '.join(['---'] * (8 + len(others)))} |",
    ]
    for key in sorted(record, key=_order):
        net, threads, batch = key.split("/")
        files = record[key]["files"]
        ratios = " | ".join(f"{files[name]['ratio']:.3f}" for name in others)
        limit = CPU_LIMITS.get(key)
        lines.append(
            f"| {net} | {threads} | {batch} | {record[key]['load']:.0f} | "
            f"{files['FP32']['median_ms']:.2f} | {ratios} | "
            f"{record[key]['against_static']:.3f} | {record[key]['static_against_itself']:.3f} | "
            f"{tell_limit(limit, files['edgeq']['ratio'])} |"
        )
    lines.append("")
    for net in dict.fromkeys(key.split("/")[0] for key in sorted(record, key=_order)):
        text = next(item["fusions"] for key, item in record.items() if key.startswith(net))
        lines.append(f"- {net}: {text}.")
    machines = sorted({item["machine"] for item in record.values()})
    versions = sorted({f"{item['versions']}, seed {item['seed']}" for item in record.values()})
    lines += ["", f"Machine: {'; '.join(machines)}. Versions: {'; '.join(versions)}.", ""]
    return "\n".join(lines)


def _order(key: str) -> tuple[str, int, int]:
    net, threads, batch = key.split("/")
    return net, int(threads), int(batch)


if __name__ == "__main__":
    write_page()
