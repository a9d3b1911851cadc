"""The scripts and the README of a bundle. POSIX sh, file names fixed, every argument quoted."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from textwrap import dedent

from deploy.sealed import RESULTS, SUMS
from edgeq.core.specs import TargetCard

QDQ_MODEL = "model.qdq.onnx"
ENGINE = "model.plan"
INPUTS = "inputs.json"
OUTPUTS = "outputs.json"
LOADER = "load_inputs.py"

LOADER_TEXT = '''\
"""The samples for polygraphy's commands that take --data-loader-script load_inputs.py: run, convert, debug, data."""

import os

from polygraphy.json import load_json


def load_data():
    """Return the calls of inputs.json: {input name: array} each."""
    return load_json(os.path.join(os.path.dirname(os.path.abspath(__file__)), "inputs.json"))
'''


_HEAD = """\
#!/bin/sh
# {purpose}
# For {title}, {runtime} {version}. Made by edgeq; see README.txt.
set -eu
unset CDPATH  # cd would look there first
cd -- "$(dirname -- "$0")"
sha256sum --quiet --strict -c {sums} || {{
    echo "error: the bundle is damaged or was changed; nothing was run" >&2
    echo "  mend: copy it again" >&2
    exit 3
}}
# What else lies here could be read in place of Python's own modules, and nobody has vouched for it.
known=$(cut -c67- {sums}; printf '%s\\n' {results})
others=$(
    find . ! -type f ! -type d
    find . -type f ! -path '*/.*' ! -path './__pycache__/{loader}.*' | cut -c3- | grep -vxF "$known"
) || :
[ -z "$others" ] || {{
    echo "error: the bundle holds what does not belong to it; nothing was run:" >&2
    printf '%s\\n' "$others" | sed 's/^/    /' >&2
    echo "  mend: move it elsewhere" >&2
    exit 3
}}
"""

_BUILD = """\
python=${PYTHON:-python3}
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 6))' || {
    echo "error: no Python 3.6 or newer as $python" >&2
    echo "  mend: sudo apt-get install python3, or name one: PYTHON=/usr/bin/python3 ./build.sh" >&2
    exit 5
}
"$python" -c 'import numpy' 2>/dev/null || {
    echo "error: $python has no numpy" >&2
    echo "  mend: sudo apt-get install python3-numpy" >&2
    exit 5
}
exec "$python" -B -u -m MODULE "$@"
"""

_RUN = """\
command -v polygraphy >/dev/null 2>&1 || {{
    echo "error: no polygraphy on PATH" >&2
    echo "  mend: pip install polygraphy onnxruntime" >&2
    exit 5
}}
polygraphy {check}
"""


_NO_TRTEXEC = """
There is no line for trtexec here: it splits its list of shapes at commas and quotes, and an input has one in
its name. ./build.sh hands names to TensorRT itself.
"""


def build_script(card: TargetCard) -> str:
    """Return `build.sh`: check the files, then build, run, compare, time and report (`deploy.board`)."""
    purpose = (
        "Builds the engine on this device, compares its outputs with the float network's, times it."
    )
    return script_head(card, purpose) + _BUILD.replace("MODULE", "deploy.board")


def check_script(card: TargetCard) -> str:
    """Return `device_check.sh`: check the files, then ask this TensorRT what the documents leave open."""
    purpose = "Asks the TensorRT of this device what the documents leave open; needs no build."
    return script_head(card, purpose) + _BUILD.replace("MODULE", "deploy.board.device_check")


def trtexec_lines(commands: Mapping[str, Sequence[str]]) -> str:
    """Return the part of README.txt on trtexec, which builds and times without Python; a line may be empty."""
    if not all(commands.values()):
        return _NO_TRTEXEC
    lines = "".join(f"    trtexec {shlex.join(line)}\n" for line in commands.values())
    return f"\nWithout TensorRT's Python bindings (nothing is compared then):\n{lines}"


def run_script(card: TargetCard, *, tolerances: Mapping[str, float | None]) -> str:
    """Return `run.sh`: check the files, run the Q/DQ model and compare it with the teacher's outputs."""
    check = shlex.join(check_line(card, tolerances=tolerances))
    return script_head(card, "Runs the model here and compares it with the teacher's outputs.") + (
        _RUN.format(check=check)
    )


def check_line(card: TargetCard, *, tolerances: Mapping[str, float | None]) -> list[str]:
    """Return the arguments, after `polygraphy`, that hold the target's outputs against the teacher's."""
    runner = (
        ["run", ENGINE, "--model-type", "engine", "--trt"]
        if card.runtime == "tensorrt"
        else ["run", QDQ_MODEL, "--onnxrt", "--graph-optimization-level", "ORT_DISABLE_ALL"]
    )
    # An output that is not judged may differ by whatever it does.
    known = {name: math.inf if atol is None else atol for name, atol in tolerances.items()}
    # A name that begins with a dash would be taken for an option: such outputs share the limit that has no name.
    nameless = [atol for name, atol in known.items() if name.startswith("-")]
    judged = [atol for atol in nameless if atol < math.inf] or nameless
    limits = [f"{max(judged):.6g}"] if nameless else []
    limits += [f"{name}:{atol:.6g}" for name, atol in known.items() if not name.startswith("-")]
    return [
        *runner,
        "--load-inputs",
        INPUTS,
        "--load-outputs",
        OUTPUTS,
        "--rtol",
        "0",
        "--atol",
        *limits,
    ]


def readme(card: TargetCard, *, samples: int, tolerances: Mapping[str, float | None]) -> str:
    """Return README.txt: what to do on the target, in plain words."""
    check = shlex.join(check_line(card, tolerances=tolerances))
    if card.runtime == "tensorrt":
        steps = _ENGINE_STEPS.format(
            version=card.runtime_version, stack=card.stack, engine=ENGINE, check=check
        )
    else:
        steps = _RUNTIME_STEPS.format(model=QDQ_MODEL, check=check)
    return _README.format(title=card.title, steps=steps, samples=samples, sums=SUMS)


_ENGINE_STEPS = dedent(
    """\
    1. Copy this folder to the device, or let `edgeq deploy USER@BOARD bundle/` do all of this. It needs
       TensorRT {version} with its Python bindings ({stack}), Python 3.6 or newer, and numpy.
    2. Run    ./build.sh
       It checks the files, builds the engine {engine}, runs the samples, compares the answers with those of
       the float network, times the engine as trtexec 11 does (no transfers, spin wait, CUDA graph), writes
       device_report.json, and says PASS or FAIL. An engine fits only the GPU and the TensorRT version that built
       it, so it is built there and not on the host. A run that was cut off can be run again.
       ./build.sh --help tells more. It ends with 0 (passed), 3 (a file was changed or added, or an option makes no
       sense), 4 (another device or TensorRT), 5 (something is not installed), 6 (no GPU, or the build failed), 7 (wrong
       outputs) or 130 (interrupted).
       For steady figures set the power mode and the clocks first (Jetson: nvpmodel, then jetson_clocks).
    3. To compare once more with polygraphy, where it is installed, run
           polygraphy {check}
    """
)

_RUNTIME_STEPS = dedent(
    """\
    1. No engine is needed: {model} runs as it is in ONNX Runtime.
    2. Run    sh run.sh
       It checks the files and compares the model with the float network, that is
           polygraphy {check}
    """
)

_README = """\
edgeq bundle for {title}

NOT VERIFIED ON HARDWARE: the model was checked on the host with ONNX Runtime. Nothing in this folder
was built, run or timed on the target.

{steps}
The limits (bundle.json: tolerances) are twice the largest difference that quantization itself makes on these samples,
measured on the host, and a little for half precision. Outputs that are no floats (classes, indices) have none.

Files
  model.qdq.onnx      the network with Q/DQ nodes
  inputs.json         {samples} calls of the network, polygraphy's format
  load_inputs.py      the same calls for polygraphy's --data-loader-script
  outputs.json        what the float network, which it was made from, answers to them
  bundle.json         where all this comes from
  device_check.sh     asks this TensorRT what NVIDIA's documents leave open, with the tiny files of probes/;
                      device_check.json says what it found
  deploy/, edgeq/     the program that build.sh runs, where there is one
  {sums}          checksums:  sha256sum -c {sums}
"""


def script_head(card: TargetCard, purpose: str) -> str:
    """Return the head of every script: check the files, and that there are no others."""
    title = " ".join(card.title.split())  # one line, so that it stays inside the comment
    return _HEAD.format(
        purpose=purpose,
        title=title,
        runtime="TensorRT" if card.runtime == "tensorrt" else "ONNX Runtime",
        version=card.runtime_version,
        sums=SUMS,
        results=" ".join((SUMS, *RESULTS)),
        loader=LOADER.removesuffix(".py"),
    )
