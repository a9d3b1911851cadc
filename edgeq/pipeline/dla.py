"""`--dla`: the float model and the calibration cache that an engine for DLA is built from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import onnx

from edgeq.core.files import write_bytes, write_json
from edgeq.core.progress import Progress
from edgeq.core.samples import SampleSet
from edgeq.graph.dla_limits import DlaFinding
from edgeq.graph.findings import listed
from edgeq.graph.strip_qdq import Stripped
from edgeq.pipeline.job import Job

# On how many samples the ranges of tensors without a trained scale are read.
RANGE_SAMPLES = 128


def make_dla(
    job: Job, model: onnx.ModelProto, samples: SampleSet, folder: Path, progress: Progress
) -> Sequence[str]:
    """Write the float model, the calibration cache, the script, and what DLA will not take."""
    from deploy.dla import dla_files
    from deploy.ranges import measure_amax
    from edgeq.graph.dla_limits import check_dla
    from edgeq.graph.strip_qdq import complete_scales, strip_qdq

    progress.start("dla", 1, "cache")
    stripped = strip_qdq(model)
    names = list(complete_scales(stripped.model, stripped.scales, {}))
    amax = measure_amax(stripped.model, names, samples, count=RANGE_SAMPLES)
    scales = complete_scales(stripped.model, stripped.scales, amax)
    files = dla_files(stripped.model, scales, card=job.card, inputs=job.specs)
    for name, data in files.items():
        write_bytes(folder / name, data)
    on_gpu = check_dla(stripped.model)
    record = {
        "tensors": len(scales),
        "trained": len(stripped.scales),
        "channels": stripped.channels,
        "regridded": stripped.regridded,
        "on_gpu": [item.to_dict() for item in on_gpu],
        "findings": _findings(stripped, len(scales), on_gpu),
        "files": list(files),
    }
    write_json(folder / "dla.json", record)
    progress.advance()
    progress.finish(f"{len(scales)} tensors in the cache, {len(on_gpu)} layers on the GPU")
    return [*files, "dla.json"]


def _findings(stripped: Stripped, tensors: int, on_gpu: Sequence[DlaFinding]) -> list[str]:
    cache = f"DLA: the calibration cache has {tensors} tensors, {len(stripped.scales)} of them with their trained scale"
    told = [
        f"{cache}; DLA quantizes weights by itself and rounds ties away from zero (not verified on hardware)"
    ]
    if stripped.regridded:
        told.append(
            f"DLA: {stripped.regridded} of {stripped.channels} weight channels get another grid than the trained one, "
            "because their largest code is not 127"
        )
    if on_gpu:
        layers = listed([f"{item.op_type} '{item.node}' ({item.reason})" for item in on_gpu])
        told.append(f"DLA: {len(on_gpu)} layers run on the GPU: {layers}")
    return told
