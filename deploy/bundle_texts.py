"""The scripts and the README of a bundle. POSIX sh, file names fixed, every argument quoted."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from textwrap import dedent

from edgeq.core.specs import TargetCard

QDQ_MODEL = "model.qdq.onnx"
ENGINE = "model.plan"
PARTIAL_ENGINE = "model.plan.part"
INPUTS = "inputs.json"
OUTPUTS = "outputs.json"
SUMS = "SHA256SUMS"

_HEAD = """\
#!/bin/sh
# {purpose}
# For {title}, {runtime} {version}. Made by edgeq; see README.txt.
set -eu
cd -- "$(dirname -- "$0")"
sha256sum -c {sums} >/dev/null || {{ echo "error: the bundle is damaged; copy it again" >&2; exit 3; }}
"""

_BUILD = """\
if command -v trtexec >/dev/null 2>&1; then
    trtexec=trtexec
elif [ -x /usr/src/tensorrt/bin/trtexec ]; then
    trtexec=/usr/src/tensorrt/bin/trtexec
else
    echo "error: no trtexec on PATH or in /usr/src/tensorrt/bin" >&2
    echo "  mend: install TensorRT {version} (JetPack: sudo apt install tensorrt), or add trtexec to PATH" >&2
    exit 5
fi
"$trtexec" {build} || {{ rm -f {partial}; echo "error: the engine was not built" >&2; exit 6; }}
mv -f {partial} {engine}
echo "engine built: {engine}"
"$trtexec" {timing}
"""

_RUN = """\
command -v polygraphy >/dev/null 2>&1 || {{
    echo "error: no polygraphy on PATH" >&2
    echo "  mend: pip install polygraphy onnxruntime" >&2
    exit 5
}}
polygraphy {check}
"""


def build_script(card: TargetCard, *, build: Sequence[str], timing: Sequence[str]) -> str:
    """Return `build.sh`: check the files, build the engine (which appears whole or not at all), time it.

    Args:
        card: the target.
        build: arguments of trtexec that write PARTIAL_ENGINE.
        timing: arguments of trtexec that load ENGINE.
    """
    body = _BUILD.format(
        version=card.runtime_version,
        build=shlex.join(build),
        timing=shlex.join(timing),
        partial=PARTIAL_ENGINE,
        engine=ENGINE,
    )
    return _head(card, "Builds the engine on this device and times it.") + body


def run_script(card: TargetCard, *, tolerances: Mapping[str, float]) -> str:
    """Return `run.sh`: check the files, run the Q/DQ model and compare it with the teacher's outputs."""
    check = shlex.join(check_line(card, tolerances=tolerances))
    return _head(card, "Runs the model here and compares it with the teacher's outputs.") + (
        _RUN.format(check=check)
    )


def check_line(card: TargetCard, *, tolerances: Mapping[str, float]) -> list[str]:
    """Return the arguments, after `polygraphy`, that hold the target's outputs against the teacher's."""
    runner = (
        ["run", ENGINE, "--model-type", "engine", "--trt"]
        if card.runtime == "tensorrt"
        else ["run", QDQ_MODEL, "--onnxrt", "--graph-optimization-level", "ORT_DISABLE_ALL"]
    )
    limits = [f"{name}:{atol:.6g}" for name, atol in tolerances.items()]
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


def readme(card: TargetCard, *, samples: int, tolerances: Mapping[str, float]) -> str:
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
    1. Copy this folder to the device. It needs TensorRT {version} ({stack}).
    2. Run    sh build.sh
       It checks the files, builds the engine {engine} with trtexec, and times it. An engine fits only the
       GPU and the TensorRT version that built it, so it is built there and not on the host.
       For steady figures set the power mode and the clocks first (Jetson: nvpmodel, then jetson_clocks).
    3. To compare the engine with the float network, where polygraphy is installed, run
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
The limits after --atol are twice the largest difference that quantization itself makes on these samples, measured
on the host, and a little for half precision.

Files
  model.qdq.onnx      the network with Q/DQ nodes
  inputs.json         {samples} calls of the network, polygraphy's format
  outputs.json        what the float network, which it was made from, answers to them
  bundle.json         where all this comes from
  {sums}          checksums:  sha256sum -c {sums}
"""


def _head(card: TargetCard, purpose: str) -> str:
    title = " ".join(card.title.split())  # one line, so that it stays inside the comment
    return _HEAD.format(
        purpose=purpose,
        title=title,
        runtime="TensorRT" if card.runtime == "tensorrt" else "ONNX Runtime",
        version=card.runtime_version,
        sums=SUMS,
    )
