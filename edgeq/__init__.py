"""edgeq: from a trained ONNX file, without its training data, to a low-bit network for an edge GPU.

    import edgeq
    edgeq.build("model.onnx", target="jetson-orin", bits="w4a4")

Nothing heavy is loaded before a name is used. docs/python.md describes the interface; `__init__.pyi` beside this file
tells type checkers and editors of it. This file goes to the board, too, where Python may be 3.6.
"""

import importlib
import os
from typing import List

__version__ = "0.1.0"

# ONNX Runtime (1.31 on Linux) keeps a number of the machine and a list of what it did in ~/.cache, and names a server
# of its maker for them. It reads this when it is loaded, and whoever wants it may have set it.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

# Where each name lives; a test holds this to __init__.pyi.
_HOMES = {
    "BuildOptions": "edgeq.pipeline",
    "BuildResult": "edgeq.pipeline",
    "EdgeqError": "edgeq.core.errors",
    "Job": "edgeq.pipeline",
    "Progress": "edgeq.core.progress",
    "SampleSet": "edgeq.core.samples",
    "build": "edgeq.pipeline",
    "build_engine": "deploy.engine.build",
    "compare_models": "deploy.compare",
    "estimate_latency": "deploy.estimate",
    "export_module": "edgeq.teacher.export",
    "lint": "edgeq.graph.lint",
    "load_card": "deploy.cards",
    "make_options": "edgeq.pipeline",
    "plan_build": "edgeq.pipeline",
    "prepare": "edgeq.pipeline",
    "read_build": "edgeq.report.builds",
    "render_builds": "edgeq.report.page",
    "run_build": "edgeq.pipeline",
    "run_explain": "edgeq.pipeline",
    "run_synth": "edgeq.pipeline",
    "run_weight_only": "edgeq.pipeline",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        msg = f"module 'edgeq' has no attribute '{name}'"
        raise AttributeError(msg)
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> List[str]:
    return sorted({*globals(), *_HOMES})
