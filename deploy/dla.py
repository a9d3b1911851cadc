"""The files of a bundle that build an engine for DLA: the float model, the calibration cache, and a script."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence

import onnx

from deploy.bundle_texts import script_head
from deploy.calibration_cache import CACHE, write_cache
from deploy.cards import Capability, require_capability
from deploy.sealed import DLA_ENGINE
from deploy.trtexec import BatchRange, dla_line, tensorrt_version, timing_line
from edgeq.core.errors import InputError, TargetError
from edgeq.core.specs import BitSpec, GraphFlavour, InputSpec, TargetCard

DLA_MODEL = "model.dla.onnx"
DLA_SCRIPT = "build_dla.sh"
_WIDE = 8

DLA_README = f"""
This bundle is for DLA. ./build.sh builds {DLA_MODEL} with {CACHE} for DLA core 0, layers that it
cannot take on the GPU; --device dla1 takes the other core, --device gpu builds model.qdq.onnx for the GPU
alone. DLA rounds ties away from zero and quantizes weights by itself, which the limits may be too narrow
for. {DLA_SCRIPT}, if it is here, builds and times the same with trtexec, which needs no Python bindings.
"""

# trtexec, not Python: it sets the calibrator by itself.
_SCRIPT = """\
if command -v trtexec >/dev/null 2>&1; then
    trtexec=trtexec
elif [ -x /usr/src/tensorrt/bin/trtexec ]; then
    trtexec=/usr/src/tensorrt/bin/trtexec
else
    echo "error: no trtexec on PATH or in /usr/src/tensorrt/bin" >&2
    echo "  mend: install TensorRT {version} (JetPack: sudo apt install tensorrt), or add trtexec to PATH" >&2
    exit 5
fi
"$trtexec" {build} || {{ rm -f .{engine}.part; echo "error: the engine was not built" >&2; exit 6; }}
mv -f .{engine}.part {engine}
echo "engine built: {engine}"
"$trtexec" {timing}
"""


def require_dla(card: TargetCard, *, flavour: GraphFlavour | None, bits: BitSpec) -> None:
    """Check that a build for DLA can be done on the target `card`.

    Args:
        card: the target.
        flavour: that was asked for, if any.
        bits: of weights and activations.

    Raises:
        TargetError: if the target has no DLA, or the graph would be FP16-typed.
        InputError: if activations have fewer than 8 bits.
    """
    require_capability(card, Capability.DLA)
    if flavour is GraphFlavour.FP16_TYPED:
        raise TargetError(
            "--dla with --flavour fp16-typed",
            why="DLA takes INT8 from a calibration cache, which strong typing does not read",
            mend="leave --flavour out",
        )
    if bits.activations != _WIDE:
        raise InputError(
            f"--dla with activations of {bits.activations} bits",
            why="a calibration cache gives every tensor one scale for 8 bits, and has no Clip",
            mend="pass for instance --bits w8a8",
        )


def dla_files(
    model: onnx.ModelProto,
    scales: Mapping[str, float],
    *,
    card: TargetCard,
    inputs: Sequence[InputSpec],
) -> dict[str, bytes]:
    """Return the files by name; without the script where trtexec cannot read the name of an input.

    Args:
        model: without Q/DQ nodes.
        scales: of every tensor that it computes.
        card: the target.
        inputs: of the model.

    Raises:
        TargetError: if the target has no DLA.
        InputError: if a tensor has a name that the cache cannot hold.
    """
    partial = f".{DLA_ENGINE}.part"
    build = dla_line(
        card, onnx_name=DLA_MODEL, engine_name=partial, inputs=inputs, cache_name=CACHE
    )
    timing = timing_line(
        card, engine_name=DLA_ENGINE, inputs=inputs, batch=BatchRange(min=1, opt=1, max=1)
    )
    purpose = "Builds an engine for DLA core 0, layers that it cannot take on the GPU, and times it; compares nothing."
    script = script_head(card, purpose) + _SCRIPT.format(
        version=card.runtime_version,
        build=shlex.join(build),
        timing=shlex.join(timing),
        engine=DLA_ENGINE,
    )
    files = {
        DLA_MODEL: model.SerializeToString(deterministic=True),
        CACHE: write_cache(scales, tensorrt_version(card)),
    }
    return files | ({DLA_SCRIPT: script.encode()} if build else {})
