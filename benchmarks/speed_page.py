"""Write docs/speed.md from the records of the benchmarks.

Entry: `write_page`, or `python benchmarks/speed_page.py`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import precision
import threads

from edgeq.core.files import read_json, write_bytes

ROOT = Path(__file__).parents[1]
RECORD = ROOT / "benchmarks" / "speed.json"
PAGE = ROOT / "docs" / "speed.md"
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

HEAD = """# Speed of the loops

Made by `benchmarks/speed.py --write`, `benchmarks/precision.py` and `benchmarks/threads.py`; no figure is typed by
hand.

    EDGEQ_FIXTURES=../shared/data python benchmarks/speed.py --write

Synthesis moves pixels, training moves weights, reconstruction fits unit after unit of the network. *Plain* is the
same loop in the same process, as one writes it first: float32, torch's variance, the filter by Fourier transforms,
quantizers and errors left to autograd, torch's own Adam. The *floor* is what no loop of its kind can do without, in
the precision of the loop, and again in float32: of synthesis the teacher forward and back to its input; of training
the teacher forward, and the unquantized network forward and back to its weights; of reconstruction every unit
forward, and back to its weights and its input. Times are processor time of one thread, medians of runs that take
turns; a step of reconstruction is a sum over the units, and over both passes of BRECQ. Quantizers are where a build
for `jetson-orin` has them, as in the rows of docs/results.md.
"""

MEANS = """
The goals are 1.3 times the floor for synthesis and 1.5 times for reconstruction; the table tells which are met.

What makes them fast, each kept because it measured faster with the same result:

- **bfloat16 in synthesis** where the processor multiplies it (AVX512_BF16, AMX): convolutions and products of
  matrices by autocast, statistics and losses in float32. A network that bfloat16 does not carry is found by one run
  at the start, and computed in float32. Training and reconstruction stay in float32: in bfloat16 a training step took
  a fifth less time, and the student of as many steps was further from its teacher by 2 % (KL on test pictures 0.0429
  against 0.0422 and 0.0409 against 0.0400: w4a4, 1,500 steps, two sample sets, one seed), so there was no gain a
  second.
- **Statistics where the tensor is made**, in one pass over it, and back in one more; all layers are then compared
  as one.
- **BatchNormalization of constants** goes back by one product, to which the gradient of the layer's statistics is
  added in the same pass.
- **Quantizers** keep nothing that the layers around them do not keep already; the gradient by a scale is two dot
  products. One that drops values (QDrop) mixes them in itself. Its masks are cut from a row of random numbers, each
  at a place of its own, and the row is drawn anew now and then; for a half it is the bits of the numbers.
- **Learned rounding** and its regulariser are one node of autograd each, with the gradient by hand.
- **No graph for what needs no gradient**: the teacher runs once a step, and autograd starts at its last feature
  map.
- **Adam** by the kernel that reads each value once.
- **Freed memory is kept** between steps, up to 512 MB; glibc gives it back to the system after every few tensors.

Channels last makes the network alone faster, and the statistics of samples slower by more. What is left of a step
of QDrop and Genie-M above its floor is quantizing and mixing values at every quantizer, learned rounding, Adam and
Python, whatever the batch.

On CUDA the loops have bfloat16 in synthesis and the kernels above. On one GPU the fifth step of training, and of
synthesis the teacher's part of it, are recorded as a CUDA graph and replayed from then on, if one step made both ways
ends in the same values (`edgeq/teacher/replay.py`); else that is in the log, and it goes on as it is. Step by step run
views that move by chance and the spectrum of a batch, whose eigenvalues are found with the host's help; recipes with
swing convolution or a margin; and reconstruction, which chooses its masks on the host. There is no `torch.compile`,
and batches have the size of the recipe. Nothing was measured on CUDA.
"""

PRECISION = """
## Samples in bfloat16 against samples in float32

Samples made in both precisions from the same seed, and the same short training (`w4a4`, quick effort) on each;
top-1 that is lost on CIFAR-10's test pictures:
"""

THREADS = """
## Threads

Torch takes one thread a core. By themselves its threads spin for a while when they wait, and with other programs on
the same cores most of the time goes into that. `edgeq` lets them sleep: it sets `OMP_WAIT_POLICY=passive` unless
the variable is set. A script that calls edgeq as a library has to set it before torch is imported. A step of
synthesis of the digits example, by the clock; *alone* is beside whatever else the machine did:
"""

TAIL = """
`OMP_NUM_THREADS=1` is a safe choice on a busy machine. The number of threads, the instruction set and the precision
belong to the identity of a build: the same bytes are promised on the same machine with the same settings. How
threads wait does not change what they compute. GPUs: [how to](howto/gpus.md).
"""


def write_page() -> None:
    """Assemble the page from what is on record."""
    record = read_json(RECORD)
    lines = [
        HEAD,
        f"`{record['model']}`, {record['bits']}, {record['where']}, torch {record['torch']}.",
        "",
        *table(record["rows"]),
        MEANS,
        *memory(record["memory"]),
        PRECISION,
        *precision.section(read_json(precision.RECORD)),
        THREADS,
        *threads.section(read_json(threads.RECORD)),
        TAIL.rstrip("\n"),
    ]
    write_bytes(PAGE, ("\n".join(lines) + "\n").encode())


def table(rows: list[dict[str, Any]]) -> list[str]:
    """Return the table of the loops."""
    lines = [f"| {' | '.join(COLUMNS)} |", "|---" * len(COLUMNS) + "|"]
    for row in rows:
        s = row["seconds"]
        cells = [
            row["loop"],
            row["precision"],
            *(f"{1000 * s[key]:.0f}" for key in ("ours", "plain")),
            f"{s['plain'] / s['ours']:.2f}",
            f"{1000 * s['floor']:.0f}",
            f"{s['ours'] / s['floor']:.2f}",
            f"{1000 * s['float32_floor']:.0f}",
            f"{s['ours'] / s['float32_floor']:.2f}",
            *(f"{row['per_step'] / s[key]:.2f} {row['unit']}" for key in ("ours", "plain")),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def memory(found: dict[str, Any]) -> list[str]:
    """Return what `benchmarks/memory.py` found."""
    (few, low), (many, high) = sorted((int(n), mb) for n, mb in found["peaks_mb"].items())
    return [
        "## Memory",
        "",
        "Samples and features lie in files that are read where they are looked at; the system takes their pages back",
        f"when it needs them. Reconstruction (Genie-M) and training of `{found['model']}` held {low:.1f} MB more than",
        f"before for {few:,} samples, and {high:.1f} MB more for {many:,} (`benchmarks/memory.py`).",
        "Synthesis holds the set that it makes.",
    ]


if __name__ == "__main__":
    write_page()
