"""Importing a package loads no more than it must: `deploy` runs on the board, `edgeq --help` answers at once."""

from __future__ import annotations

import json
import pkgutil
import subprocess
import sys

import deploy

HEAVY = {"torch", "onnx", "onnxruntime", "tensorrt", "polygraphy"}


def loaded_by(statement: str) -> set[str]:
    """Return the top-level third-party modules that `statement` adds to a fresh interpreter."""
    code = (
        "import json, sys; before = set(sys.modules)\n"
        f"{statement}\n"
        "print(json.dumps(sorted({name.split('.')[0] for name in set(sys.modules) - before})))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return set(json.loads(done.stdout)) - set(sys.stdlib_module_names)


def test_import_edgeq_loads_nothing_else() -> None:
    assert loaded_by("import edgeq") == {"edgeq"}


def test_import_deploy_loads_nothing_but_numpy() -> None:
    assert loaded_by("import deploy") <= {"deploy", "edgeq", "numpy"}


def test_import_calib_loads_no_runtime_of_the_target() -> None:
    assert not loaded_by("import calib") & {"onnxruntime", "tensorrt", "polygraphy"}


def test_no_module_of_deploy_loads_a_runtime_before_it_is_needed() -> None:
    names = [item.name for item in pkgutil.walk_packages(deploy.__path__, "deploy.")]
    assert names
    assert not loaded_by(f"import {', '.join(names)}") & {
        "torch",
        "onnxruntime",
        "tensorrt",
        "polygraphy",
    }


def test_the_command_line_loads_nothing_heavy() -> None:
    assert not loaded_by("import edgeq.cli.app") & (HEAVY | {"numpy"})
